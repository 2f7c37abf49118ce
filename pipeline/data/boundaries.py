"""Bands of pixels around class boundaries, the one definition that the losses and the evaluation share.

A pixel lies in the band of window size k (odd) if the k x k window around it holds a valid pixel of another class. For
the pixel's own class c that is dilate(M^c, k) minus erode(M^c, k) (FLEX-Seg, GAP), without a pass per class: it holds
exactly where the largest and the smallest valid label of the window differ. Ignored pixels belong to no band and make
none (ours).
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from pipeline.data.labels import IGNORE


def boundary_granularity(labels: torch.Tensor, sizes: Sequence[int] = (3, 5, 7)) -> torch.Tensor:
    """The thinnest band that holds each pixel.

    labels: (B,H,W) integer train ids; sizes: the bands' odd window sizes in pixels of `labels`, ascending.
    Returns (B,H,W) int64: index into `sizes`, -1 where no band holds the pixel.
    """
    if list(sizes) != sorted(set(sizes)) or any(size < 3 or size % 2 == 0 for size in sizes):
        raise ValueError(f"band sizes must be odd, at least 3 and ascending, got {tuple(sizes)}")
    labels = labels.to(torch.uint8)
    outside = torch.zeros_like(labels, dtype=torch.int8)  # counts the bands that do not hold the pixel
    # From the thinnest band to the thickest: the extremes of a wider window grow out of those of the one before, and a
    # pixel's granularity is the number of bands that were too thin to hold it.
    extremes, done = _extremes(labels), 1
    for size in sizes:
        extremes, done = _widen(extremes, size - done + 1), size  # windows compose: 3 after 3 is 5
        outside += ~_differs(extremes)
    # An ignored pixel's window may hold two classes, yet it has no class of its own to be on the boundary of.
    none = (outside == len(sizes)) | (labels == IGNORE)
    return outside.masked_fill_(none, -1).long()


def boundary_band(labels: torch.Tensor, radius_px: int) -> torch.Tensor:
    """Pixels with another valid class within `radius_px` rows and columns (a square window of 2 radius + 1).

    labels: (B,H,W) integer train ids. Returns (B,H,W) bool, False at ignored pixels.
    """
    labels = labels.to(torch.uint8)
    return _differs(_widen(_extremes(labels), 2 * radius_px + 1)) & (labels != IGNORE)


def _extremes(labels: torch.Tensor) -> torch.Tensor:
    """(2,B,H,W) uint8: the label, and 255 minus it, so that one maximum takes both extremes; 0, which wins neither, at
    ignored pixels."""
    return torch.stack([labels.masked_fill(labels == IGNORE, 0), ~labels])


def _widen(extremes: torch.Tensor, size: int) -> torch.Tensor:
    """Maximum over the size x size window around each pixel: columns, then rows (a square window is separable)."""
    # Zeros outside the image win neither maximum, so its border is no boundary.
    padded = pad(extremes, (size // 2,) * 4)
    return _slide(_slide(padded, size, dim=-2), size, dim=-1)


def _slide(values: torch.Tensor, size: int, dim: int) -> torch.Tensor:
    """Maximum over every `size` neighbors along `dim`, size - 1 shorter; windows double: 1, 2, 4, ... size."""
    done = 1
    while done < size:
        # Two windows of `done` px that lie `step` apart make one of `done + step`: log2(size) passes instead of size.
        step = min(done, size - done)
        length = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        done += step
    return values


def _differs(extremes: torch.Tensor) -> torch.Tensor:
    # The second map holds 255 - minimum; in a window without a valid pixel both are 0, and 0 != 255 - 0 would say yes:
    # such a window's own pixel is ignored, and whoever calls leaves ignored pixels out.
    return extremes[0] != ~extremes[1]
