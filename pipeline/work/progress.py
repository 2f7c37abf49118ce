"""Progress bars with rate and ETA, the same everywhere."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

OnProgress = Callable[[str, int, int], None]
"""Hears (description, done, total) of a loop from time to time."""
TELL_EVERY_S = 5.0


class Track(Protocol):
    """What a stage calls to show how far it is: iterates over `items` and draws. `note` gives what is said beside."""

    def __call__(
        self, items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
    ) -> Iterator[T]: ...


def silent(
    items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
) -> Iterator[T]:
    """A `Track` that draws nothing (tests, workers)."""
    yield from items


def bar(
    items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
) -> Iterator[T]:
    """A `Track` on the terminal (stderr): description, bar, count, rate, elapsed and remaining time, note.

    `done` of `total` were finished before (a resumed run), so that the ETA is true.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(description, total=total, completed=done, rate="", note="")
        for item in items:
            yield item
            progress.update(task, advance=1, note=note())
            speed = progress.tasks[task].speed
            if speed:
                progress.update(task, rate=f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def telling(on_progress: OnProgress) -> Track:
    """`bar` that also tells `on_progress` how far it is: every few seconds, and at the end of a long loop."""

    def track(
        items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
    ) -> Iterator[T]:
        told = start = time.monotonic()
        for item in bar(items, total=total, description=description, done=done, note=note):
            yield item
            done += 1
            if time.monotonic() - told >= TELL_EVERY_S:
                told = time.monotonic()
                on_progress(description, done, total)
        if told > start:
            on_progress(description, done, total)

    return track


def duration(seconds: float) -> str:
    """Seconds as people say them: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
