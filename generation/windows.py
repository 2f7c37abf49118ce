"""Where the network looks: windows on a canvas of latent cells, and which of them are needed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pipeline.data.windows import window_starts
from pipeline.errors import UserError


class Window(NamedTuple):
    """A rectangle of cells on the canvas of one image of the batch."""

    image: int
    top: int
    left: int
    height: int
    width: int

    def cut(self, batch: Tensor, scale: int = 1) -> Tensor:
        """A view (C, height * scale, width * scale) of `batch` (B, C, ...), which has `scale` px per cell."""
        rows = slice(self.top * scale, (self.top + self.height) * scale)
        columns = slice(self.left * scale, (self.left + self.width) * scale)
        return batch[self.image, :, rows, columns]


def grid(canvas: tuple[int, int], window: tuple[int, int], stride: int, image: int = 0) -> list[Window]:
    """Windows of `window` cells every `stride` cells, row by row; the last of a row or column is flush with the edge.

    A window that is larger than the canvas is cut to it. Raises UserError where the stride would leave gaps.
    """
    height, width = min(window[0], canvas[0]), min(window[1], canvas[1])
    if stride > min(height, width):
        raise UserError(
            f"generation.fusion.stride is {stride} cells, wanted at most the window's {min(height, width)}: lower it"
        )
    tops, lefts = window_starts(canvas[0], height, stride), window_starts(canvas[1], width, stride)
    return [Window(image, top, left, height, width) for top in tops for left in lefts]


def needed(windows: Sequence[Window], free: np.ndarray) -> list[Window]:
    """The windows that hold a cell of `free` (h, w) bool. The others paint nothing that is not replaced after the step,
    so leaving them out changes no image."""
    return [window for window in windows if _inside(window, free).any()]


def sparse_cover(windows: Sequence[Window], free: np.ndarray) -> list[Window]:
    """Few of the `windows` that together hold every cell of `free` (h, w) bool which any of them holds (ours).

    Greedy set cover: always the window with most free cells that no chosen one holds, the first of equals. Cells that
    several windows would have averaged are then often painted by one, so this is an approximation.
    """
    left = free.copy()
    chosen = []
    while windows:
        best = max(windows, key=lambda window: np.count_nonzero(_inside(window, left)))
        if not _inside(best, left).any():
            break
        chosen.append(best)
        _inside(best, left)[...] = False
    return chosen


def _inside(window: Window, cells: np.ndarray) -> np.ndarray:
    return cells[window.top : window.top + window.height, window.left : window.left + window.width]
