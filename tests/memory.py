"""A made full GPU: what torch raises there, on a machine without one."""

from collections.abc import Callable
from typing import Any

import torch

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB"


class SmallCard:
    """Holds `fits` things at once, and refuses more as torch does. `held` are the sizes that it took."""

    def __init__(self, fits: int) -> None:
        self.fits, self.refused = fits, 0
        self.held: list[int] = []

    def hold(self, things: Any) -> Any:
        """The things, if they fit."""
        if len(things) > self.fits:
            self.refused += 1
            raise torch.OutOfMemoryError(FULL)
        self.held.append(len(things))
        return things

    def limit(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, whose first argument is a batch."""

        def limited(batch: Any, *arguments: Any, **options: Any) -> Any:
            return call(self.hold(batch), *arguments, **options)

        return limited
