"""How much goes through a network at once: halved when the GPU's memory is full, and not raised again."""

import gc
import math
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

from pipeline.work.devices import MemoryFullError, out_of_memory

R = TypeVar("R")


class InFlight:
    """At most `most` of `what` (in the singular: image, window) at once, as `option` says: the config's key that people
    know it by. `smaller` tells what they can do where even one does not fit."""

    def __init__(self, what: str, most: int, option: str, smaller: str) -> None:
        self.what, self.most, self.option, self.smaller = what, most, option, smaller

    def parts(self, work: Callable[[slice], R], count: int) -> Iterator[R]:
        """`work` on slices of range(`count`), in order, of about equal sizes. A slice whose work has filled the memory
        is worked on again in halves, so `work` must give the same when it is called anew.

        MemoryFullError where one alone does not fit.
        """
        start = 0
        while start < count:
            left = count - start
            part = slice(start, start + math.ceil(left / math.ceil(left / self.most)))
            try:
                result = work(part)
            except Exception as error:
                if not self.halved(error, part.stop - part.start):
                    raise
                continue
            yield result
            start = part.stop

    def halved(self, error: Exception, size: int) -> bool:
        """Whether what failed may be tried again with fewer: False if `error` is not that of a full GPU. `size` of them
        were in flight. MemoryFullError if that was one."""
        full = out_of_memory(error)
        if full is None:
            return False
        if size == 1:
            raise MemoryFullError(
                f"one {self.what} alone does not fit into the GPU's memory ({full.said}): {self.smaller}; what was"
                " finished is kept",
                full.said,
            ) from error
        before, self.most = size, min(self.most, math.ceil(size / 2))
        print(
            f"flexseg: the GPU's memory is full ({full.said}): {self.most} {self.what}s at once from now on instead of"
            f" {before} ({self.option})",
            file=sys.stderr,
        )
        _free(error)
        return True


def _free(error: BaseException | None) -> None:
    """Lets go of what the calls that failed have made, which the error's traceback holds."""
    import torch  # slow to import; here it has been long since

    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
