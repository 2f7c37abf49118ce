"""HRDA's geometry (ECCV 2022): where detail crops lie, how windows cover an image, how the two scales are fused."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import interpolate

from pipeline.data.windows import window_starts

GRID = 8
"""px of the network's input: boxes keep to multiples, so that a cell of the context (its half) is never cut."""


class CropBox(NamedTuple):
    """A rectangle in px of the network's input; ends are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    def at(self, scale: float) -> tuple[slice, slice]:
        """Its rows and columns in a tensor of `scale` times the input's size."""
        top, bottom, left, right = (round(side * scale) for side in self)
        return slice(top, bottom), slice(left, right)


def draw_box(size: tuple[int, int], detail: tuple[int, int], torch_rng: torch.Generator) -> CropBox:
    """A random detail crop of `detail` px in an input of `size` px (height, width), on the grid."""
    sides: list[int] = []
    for length, wanted in zip(size, detail, strict=True):
        start = GRID * int(torch.randint((length - wanted) // GRID + 1, (), generator=torch_rng))
        sides += [start, start + wanted]
    return CropBox(*sides)


def windows(size: tuple[int, int], window: tuple[int, int]) -> list[CropBox]:
    """Windows that cover `size` px and overlap by half; those that would stick out end at the border."""
    tops, lefts = (window_starts(length, side, side // 2) for length, side in zip(size, window, strict=True))
    height, width = (min(pair) for pair in zip(size, window, strict=True))
    return [CropBox(top, top + height, left, left + width) for top in tops for left in lefts]


def averaged(
    image: torch.Tensor,
    boxes: Sequence[CropBox],
    predict: Callable[[torch.Tensor], torch.Tensor],
    *,
    stride: int,
    at_once: int,
) -> torch.Tensor:
    """The mean of the windows' predictions where they overlap.

    image: (B,3,H,W); predict: (N,3,h,w) -> (N,C,h/stride,w/stride), called on at most `at_once` windows of each image.
    Gives (B,C,H/stride,W/stride).
    """
    batch, _, height, width = image.shape
    total = counts = torch.empty(0)
    for first in range(0, len(boxes), at_once):
        chunk = boxes[first : first + at_once]
        predictions = predict(torch.cat([image[:, :, *box.at(1)] for box in chunk]))
        if first == 0:
            total = predictions.new_zeros(batch, predictions.shape[1], height // stride, width // stride)
            counts = total.new_zeros(height // stride, width // stride)
        for box, prediction in zip(chunk, predictions.split(batch), strict=True):
            total[:, :, *box.at(1 / stride)] += prediction
            counts[box.at(1 / stride)] += 1
    return total / counts


def fuse_detail(context: torch.Tensor, detail: torch.Tensor, attention: torch.Tensor, box: CropBox) -> torch.Tensor:
    """Logits of both scales -> (B,C,H/4,W/4): up((1 - a) context) + up(a) detail, where a is 0 outside the box.

    context, attention: (B,C,H/8,W/8); detail: (B,C,h/4,w/4) of the `box`, which is h x w px.
    """
    # Outside the detail crop there is nothing to attend to: the context alone decides.
    inside = torch.zeros_like(attention[:1, :1])
    inside[:, :, *box.at(1 / GRID)] = 1
    attention = attention * inside
    # Weighted first and enlarged then, as released: the other order gives other numbers.
    fused = _doubled((1 - attention) * context)
    place = box.at(2 / GRID)
    fused[:, :, *place] += _doubled(attention)[:, :, *place] * detail
    return fused


def _doubled(maps: torch.Tensor) -> torch.Tensor:
    return interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
