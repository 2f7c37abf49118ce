"""Bands of pixels around class boundaries, the one definition that the losses and the evaluation share.

A pixel lies in the band of window size k (odd) if the k x k window around it holds a valid pixel of another class. For
the pixel's own class c that is dilate(M^c, k) minus erode(M^c, k) (FLEX-Seg, GAP), without a pass per class: it holds
exactly where the largest and the smallest valid label of the window differ. Ignored pixels belong to no band and make
none (ours).
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import max_pool2d

from pipeline.labels import IGNORE


def boundary_granularity(labels: torch.Tensor, sizes: Sequence[int] = (3, 5, 7)) -> torch.Tensor:
    """The thinnest band that holds each pixel.

    labels: (B,H,W) integer train ids; sizes: the bands' odd window sizes in pixels of `labels`, ascending.
    Returns (B,H,W) int64: index into `sizes`, -1 where no band holds the pixel.
    """
    if list(sizes) != sorted(set(sizes)) or any(size < 3 or size % 2 == 0 for size in sizes):
        raise ValueError(f"band sizes must be odd, at least 3 and ascending, got {tuple(sizes)}")
    valid = labels != IGNORE
    granularity = torch.full_like(labels, -1, dtype=torch.int64)
    extremes, done = _extremes(labels, valid), 1
    for index, size in enumerate(sizes):
        extremes, done = _widen(extremes, size - done + 1), size  # windows compose: 3 after 3 is 5
        granularity[_differs(extremes) & valid & (granularity < 0)] = index
    return granularity


def boundary_band(labels: torch.Tensor, radius_px: int) -> torch.Tensor:
    """Pixels with another valid class within `radius_px` rows and columns (a square window of 2 radius + 1).

    labels: (B,H,W) integer train ids. Returns (B,H,W) bool, False at ignored pixels.
    """
    valid = labels != IGNORE
    return _differs(_widen(_extremes(labels, valid), 2 * radius_px + 1)) & valid


def _extremes(labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B,2,H,W) float: label and minus label, so that one max pool takes both extremes; ignored pixels win neither."""
    values = labels.float()
    return torch.stack([values, -values], dim=1).masked_fill(~valid[:, None], -torch.inf)


def _widen(extremes: torch.Tensor, size: int) -> torch.Tensor:
    """Maximum over size x size windows, rows and columns one after the other (a square window is separable)."""
    rows = max_pool2d(extremes, (size, 1), stride=1, padding=(size // 2, 0))
    return max_pool2d(rows, (1, size), stride=1, padding=(0, size // 2))


def _differs(extremes: torch.Tensor) -> torch.Tensor:
    return extremes[:, 0] != -extremes[:, 1]
