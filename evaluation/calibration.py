"""How far a segmenter's confidence can be believed: expected calibration error over bins of confidence.

Confidence is the largest softmax probability of a pixel. Bin k of K holds confidences in [k/K, (k+1)/K), the last one
1.0 too (Guo et al., On Calibration of Modern Neural Networks, 2017).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.counts import BINS
from pipeline.data.labels import IGNORE

LEVELS = 512 * BINS
"""Confidences are counted in this many levels and then stand for the middle of theirs: whole numbers add up to the
same sum in any order and on any device, and are counted faster than floats are added. They are off by 1 / (2 LEVELS) at
most."""


def count_bins(
    prediction: torch.Tensor, label: torch.Tensor, confidence: torch.Tensor
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(H,W) uint8, (H,W) uint8, (H,W) float in 0..1 -> per bin: labeled px, right ones, sum of confidences.

    ValueError where a confidence is NaN.
    """
    if confidence.isnan().any():
        raise ValueError("the segmenter's output is not a number (NaN)")
    level = (confidence * LEVELS).to(torch.int16).clamp_(0, LEVELS - 1).masked_fill_(label == IGNORE, LEVELS)
    code = level.mul_(2).add_(prediction == label).flatten()
    counts = torch.bincount(code, minlength=2 * LEVELS + 2).view(-1, 2)[:LEVELS].cpu().numpy()
    pixels = counts.sum(axis=1)
    sums = (np.arange(LEVELS) + 0.5) / LEVELS * pixels
    return _per_bin(pixels), _per_bin(counts[:, 1]), _per_bin(sums)


def _per_bin(levels: NDArray[Any]) -> NDArray[Any]:
    return levels.reshape(BINS, -1).sum(axis=1)


def expected_calibration_error(
    pixels: NDArray[np.int64], right: NDArray[np.int64], confidence: NDArray[np.float64]
) -> float:
    """Mean over pixels of their bin's |share right - mean confidence|; NaN without pixels.

    pixels, right: (K,) counts per bin; confidence: (K,) sums per bin.
    """
    whole = int(pixels.sum())
    return float(np.abs(right - confidence).sum() / whole) if whole else float("nan")
