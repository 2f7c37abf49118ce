"""Progress functions (`pipeline.work.progress.Track`) that tests use in place of a bar."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pipeline.work.progress import Track

T = TypeVar("T")


def interrupted_after(count: int) -> Track:
    """Raises KeyboardInterrupt in place of the item after `count`, as Ctrl-C would."""

    def track(
        items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
    ) -> Iterator[T]:
        for number, item in enumerate(items):
            if number == count:
                raise KeyboardInterrupt
            yield item

    return track


def counting(seen: list[object]) -> Track:
    """Notes every item in `seen`."""

    def track(
        items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
    ) -> Iterator[T]:
        for item in items:
            seen.append(item)
            yield item

    return track
