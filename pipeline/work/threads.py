"""Work that overlaps: threads for what releases Python's lock, as reading files, networks and counting pixels do."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

CORES = os.cpu_count() or 2
"""Threads for what is nothing but decoding, or reading a local disk."""
THREADS = max(2, min(8, (os.cpu_count() or 2) // 2))

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    work: Callable[[T], R], items: Iterable[T], *, ahead: int = THREADS, threads: int = THREADS
) -> Iterator[R]:
    """`work` on every item, in threads; results in order. At most `ahead` of them are begun and not yet taken."""
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future[R]] = deque()
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute with one thread on the CPU, so that sums do not differ in their last bits with the cores."""
    import torch  # slow to import

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
