"""Scores of predictions against label maps: confusion, accuracy, errors near boundaries, calibration.

Every score is taken from counts that were summed over images, never averaged over images.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.calibration import count_bins, expected_calibration_error
from evaluation.counts import PixelCounts, no_counts, ratio
from pipeline.data.boundaries import boundary_granularity
from pipeline.data.scores import Confusion, confusion_matrix

LabelMap = NDArray[np.uint8]


def count(
    prediction: torch.Tensor, label: torch.Tensor, widths: Sequence[int], confidence: torch.Tensor | None = None
) -> PixelCounts:
    """Counts of one image. prediction, label: (H,W) uint8, confidence: (H,W) float in 0..1, on one device.

    widths: of the boundary bands, px, ascending. ValueError: as `confusion_matrix`, or a confidence that is NaN.
    """
    confusion = confusion_matrix(prediction, label)
    pixels, wrong = _rings(prediction, label, boundary_rings(label, widths), len(widths))
    counts = no_counts(len(widths))._replace(confusion=confusion, ring_pixels=pixels, ring_wrong=wrong)
    if confidence is None:
        return counts
    bin_pixels, bin_right, bin_confidence = count_bins(prediction, label, confidence)
    return counts._replace(bin_pixels=bin_pixels, bin_right=bin_right, bin_confidence=bin_confidence)


def boundary_rings(label: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """(H,W) uint8 train ids -> (H,W) int64: index of the thinnest band of `widths` px that holds the pixel, else -1.

    A band of width w holds the pixels with another valid class within w rows and columns.
    """
    return boundary_granularity(label[None], [2 * width + 1 for width in widths])[0]


def _rings(
    prediction: torch.Tensor, label: torch.Tensor, ring: torch.Tensor, rings: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(R,) px per ring, and those predicted as another class."""
    code = (ring + 1).to(torch.uint8).mul_(2).add_(prediction != label).flatten()
    counts = torch.bincount(code, minlength=2 * rings + 2).view(-1, 2)[1:].cpu().numpy()
    return counts.sum(axis=1), counts[:, 1]


class Scores:
    """Every score of counted images. `band` px is the boundary of `boundary_error`, `widths` are those of the curve."""

    def __init__(
        self, band: int, widths: Sequence[int] = (), counts: PixelCounts | None = None, images: int = 0
    ) -> None:
        self.band = band
        self.widths = sorted({band, *widths})
        self.counts = no_counts(len(self.widths)) if counts is None else counts
        self.images = images

    def add(self, prediction: LabelMap, label: LabelMap) -> NDArray[np.bool_]:
        """Counts one image, (H,W) uint8 each. Returns the (H,W) boundary band that it was counted with."""
        truth = torch.tensor(label)
        self.counts = self.counts.plus(count(torch.tensor(prediction), truth, self.widths))
        self.images += 1
        ring = boundary_rings(truth, self.widths).numpy()
        return (ring >= 0) & (ring <= self.widths.index(self.band))

    @property
    def confusion(self) -> Confusion:
        """(19,19) px per label class and predicted class."""
        return self.counts.confusion

    @property
    def pixels(self) -> int:
        """Labeled pixels."""
        return int(self.confusion.sum())

    @property
    def wrong(self) -> int:
        """Labeled pixels that were predicted as another class."""
        return self.pixels - int(np.trace(self.confusion))

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labeled pixels that are right."""
        return ratio(self.pixels - self.wrong, self.pixels)

    @property
    def boundary_error(self) -> float:
        """Share of the boundary pixels that are wrong (FLEX-Seg, figure 1)."""
        return self.boundary_errors()[self.widths.index(self.band)]

    @property
    def interior_error(self) -> float:
        """Share of the labeled pixels off the boundaries that are wrong (FLEX-Seg, figure 1)."""
        return self.interior_errors()[self.widths.index(self.band)]

    @property
    def boundary_pixels(self) -> int:
        """Labeled pixels in the boundary band."""
        return int(self.counts.ring_pixels[: self.widths.index(self.band) + 1].sum())

    @property
    def boundary_wrong(self) -> int:
        """Pixels in the boundary band that were predicted as another class."""
        return int(self.counts.ring_wrong[: self.widths.index(self.band) + 1].sum())

    def boundary_errors(self) -> list[float]:
        """Per width of the curve, the share of the band's pixels that are wrong."""
        return [ratio(wrong, pixels) for pixels, wrong in self._bands()]

    def interior_errors(self) -> list[float]:
        """Per width of the curve, the share of the labeled pixels outside the band that are wrong."""
        return [ratio(self.wrong - wrong, self.pixels - pixels) for pixels, wrong in self._bands()]

    def boundary_shares(self) -> list[float]:
        """Per width of the curve, the share of the labeled pixels that lie in the band."""
        return [ratio(pixels, self.pixels) for pixels, _ in self._bands()]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error; NaN without confidences."""
        return expected_calibration_error(*self.counts[3:])

    def _bands(self) -> list[tuple[int, int]]:
        """Per width, the band's labeled px and the wrong ones among them."""
        pixels, wrong = (rings.cumsum().tolist() for rings in self.counts[1:3])
        return list(zip(pixels, wrong, strict=True))
