"""Bilinear resizing of inputs and logits, of the whole or of some rows alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch.nn.functional import interpolate

Size = tuple[int, int]
"""Height and width, px."""


class Logits(Protocol):
    """Logits (B,19,h,w) that are asked for from top to bottom, some rows at a time."""

    @property
    def size(self) -> Size:
        """Their height and width."""

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Rows `first` to before `last`, (B,19,last-first,w). No later call asks for a row above `first`."""


class WholeLogits(NamedTuple):
    """Logits that are there."""

    values: torch.Tensor

    @property
    def number(self) -> int:
        """How many images they are of."""
        return len(self.values)

    @property
    def size(self) -> Size:
        """Their height and width."""
        return self.values.shape[2], self.values.shape[3]

    def rows(self, first: int, last: int) -> torch.Tensor:
        """See `Logits`."""
        return self.values[:, :, first:last]


def resized(images: torch.Tensor, size: Sequence[int], *, antialias: bool = True) -> torch.Tensor:
    """Bilinear, without aliasing where it shrinks."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    shrinks = size[0] < images.shape[2] or size[1] < images.shape[3]
    return interpolate(images, tuple(size), mode="bilinear", align_corners=False, antialias=shrinks and antialias)


def resized_rows(logits: Logits, size: Sequence[int], rows: slice) -> torch.Tensor:
    """Some rows of `resized` logits, (B,19,rows,W), from those of `logits` that they depend on."""
    height = logits.size[0]
    if logits.size == tuple(size):
        return logits.rows(rows.start, rows.stop)
    # A row is the mean of those around its center, weighted by a triangle that is one row wide to each side, or as wide
    # as a row of the result where that is more.
    scale = height / size[0]
    reach = max(scale, 1.0)
    centers = (torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5) * scale
    starts = (centers - reach + 0.5).floor().clamp(min=0).long()
    taps = math.ceil(2 * reach) + 1
    first, last = int(starts[0]), min(height, int(starts[-1]) + taps)
    band = logits.rows(first, last)
    between, weights = torch.zeros((), device=band.device), torch.zeros_like(centers)
    for tap in range(taps):
        places = starts + tap
        weight = (1 - (places + 0.5 - centers).abs() / reach).clamp(min=0) * (places < height)
        near = band[:, :, places.clamp(max=height - 1).to(band.device) - first]
        between = between + near * weight.to(near)[:, None]
        weights += weight
    return resized(between / weights.to(between)[:, None], (rows.stop - rows.start, size[1]))
