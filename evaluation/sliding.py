"""Sliding windows over an image of any size: logits are made from top to bottom, as they are asked for."""

from collections.abc import Callable, Sequence
from itertools import product

import torch

from evaluation.resizing import Size, resized
from pipeline.data.windows import window_starts
from pipeline.work.in_flight import InFlight


class SlidingLogits:
    """Mean over overlapping windows of their logits, each enlarged to its window (mmsegmentation's slide inference).

    images: (B,3,H,W); the last window of a row or column is moved inwards so that it ends at the border. Where
    `mirrored`, the network sees the mirrored images and what it says is mirrored back. Only the rows that windows still
    add to are held, so memory grows with the image's width but not with its height.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        images: torch.Tensor,
        window: Size,
        stride: Size,
        *,
        batch_size: InFlight | int,
        mirrored: bool = False,
    ) -> None:
        if isinstance(batch_size, int):
            batch_size = InFlight("window", batch_size, "machine.evaluation_batch", "take smaller windows")
        self.network, self.images, self.in_flight, self.mirrored = network, images, batch_size, mirrored
        self.number, self.size = len(images), (images.shape[2], images.shape[3])
        # An image that is smaller than the window is one window of its own size.
        self.window = (min(window[0], self.size[0]), min(window[1], self.size[1]))
        self.tops, self.lefts = (window_starts(*axis) for axis in zip(self.size, window, stride, strict=True))
        if mirrored:
            self.lefts = [self.size[1] - self.window[1] - left for left in self.lefts]
        # The windows lie on a grid, so how many hold a px is a product of its row's and its column's count.
        self.covers = [
            _cover(*axis).to(images.device)
            for axis in zip(self.size, (self.tops, self.lefts), self.window, strict=True)
        ]
        self.next = 0
        """Row of windows that the network sees next."""
        self.first = 0
        self.sums: torch.Tensor | None = None
        """Summed logits of the rows from `first` on that the windows seen so far hold."""

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Rows `first` to before `last`, (B,19,last-first,W). No later call may ask for a row above `first`."""
        if self.sums is not None:
            self.sums, self.first = self.sums[:, :, first - self.first :], first
        while self.next < len(self.tops) and self.tops[self.next] < last:
            self._add(self.tops[self.next])
            self.next += 1
        assert self.sums is not None
        rows, columns = self.covers
        return self.sums[:, :, first - self.first : last - self.first] / (rows[first:last, None] * columns)

    def _add(self, top: int) -> None:
        """Adds a row of windows. Those of all images go through the network together, as many at a time as fit."""
        height, width = self.window
        places = list(product(range(len(self.images)), self.lefts))

        def seen(part: slice) -> tuple[list[tuple[int, int]], torch.Tensor]:
            group = places[part]
            windows = torch.stack([self.images[i, :, top : top + height, left : left + width] for i, left in group])
            logits = self.network(windows.flip(3) if self.mirrored else windows)
            return group, resized(logits.flip(3) if self.mirrored else logits, (height, width))

        for group, logits in self.in_flight.parts(seen, len(places)):
            sums = self._down_to(top + height, logits)
            for (i, left), part in zip(group, logits, strict=True):
                sums[i, :, top - self.first : top - self.first + height, left : left + width] += part

    def _down_to(self, last: int, like: torch.Tensor) -> torch.Tensor:
        """The sums, with rows of zeros down to before `last`."""
        held = 0 if self.sums is None else self.sums.shape[2]
        if self.first + held < last:
            shape = (len(self.images), like.shape[1], last - self.first, self.size[1])
            grown = like.new_zeros(shape)
            if self.sums is not None:
                grown[:, :, :held] = self.sums
            self.sums = grown
        assert self.sums is not None
        return self.sums


def _cover(whole: int, starts: Sequence[int], part: int) -> torch.Tensor:
    """(whole,) how many windows hold each row or column."""
    cover = torch.zeros(whole)
    for start in starts:
        cover[start : start + part] += 1
    return cover
