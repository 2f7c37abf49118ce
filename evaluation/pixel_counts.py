"""What is counted on an image: the sums that every score is taken from. Without torch, so that tables load at once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels import NUM_CLASSES
from pipeline.data.scores import Confusion

BINS = 15
"""Bins of confidence, as in Guo et al., On Calibration of Modern Neural Networks, 2017."""


class PixelCounts(NamedTuple):
    """What is counted on an image, or the sum over many; stacked, there is one row per image in front.

    A ring holds the labeled px that lie in one boundary band but not in the next thinner one.
    """

    confusion: Confusion
    """(19,19) px per label class and predicted class."""
    ring_pixels: NDArray[np.int64]
    ring_wrong: NDArray[np.int64]
    """(R,) px per ring, and those predicted as another class."""
    bin_pixels: NDArray[np.int64]
    bin_right: NDArray[np.int64]
    bin_confidence: NDArray[np.float64]
    """(15,) px per bin of confidence, those that are right, the sum of their confidences; 0 where none was given."""

    def plus(self, other: "PixelCounts") -> "PixelCounts":
        """The sum of both."""
        return PixelCounts(
            self.confusion + other.confusion,
            self.ring_pixels + other.ring_pixels,
            self.ring_wrong + other.ring_wrong,
            self.bin_pixels + other.bin_pixels,
            self.bin_right + other.bin_right,
            self.bin_confidence + other.bin_confidence,
        )


def no_counts(rings: int) -> PixelCounts:
    """The counts of no image."""
    ring, bins = np.zeros(rings, np.int64), np.zeros(BINS, np.int64)
    return PixelCounts(np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64), ring, ring, bins, bins, bins.astype(np.float64))


def ratio(part: float, whole: float) -> float:
    """part / whole; NaN for a share of nothing."""
    return part / whole if whole else float("nan")
