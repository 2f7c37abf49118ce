"""Progress with rate and time left: a bar on a terminal, lines where there is none."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.work import interrupts

T = TypeVar("T")

OnProgress = Callable[[str, int, int], None]
"""Hears (description, done, total) of a loop from time to time."""
TELL_EVERY_S = 5.0
LINE_EVERY_S = 60.0
"""How often a log says how far a loop is."""
RATE_OVER_S = 1.0
"""No rate is said before a loop has run for so long."""


class Track(Protocol):
    """What a stage calls to show how far it is: iterates over `items` and draws. `note` gives what is said beside.
    Between two items it ends an interrupt's KeyboardInterrupt that was swallowed (`pipeline.work.interrupts`)."""

    def __call__(
        self, items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
    ) -> Iterator[T]: ...


def silent(
    items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
) -> Iterator[T]:
    """A `Track` that draws nothing (tests, workers)."""
    for item in items:
        interrupts.raise_if_came()
        yield item


@dataclass
class Pace:
    """How fast a loop is, by what this process has done of it: `before` of `total` were done by an earlier one."""

    total: int
    before: int
    start: float
    """By `time.monotonic`."""
    done: int = 0

    @property
    def seconds(self) -> float:
        """Since the loop began here."""
        return time.monotonic() - self.start

    def rate(self) -> str:
        """`3.2/s` or `4.5 s each`; nothing while too little is known."""
        if not self.done or self.seconds < RATE_OVER_S:
            return ""
        speed = self.done / self.seconds
        return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"

    def left(self) -> str:
        """How long the rest takes at that rate: `12 min 30 s left`."""
        rest = self.total - self.before - self.done
        return f"{duration(rest * self.seconds / self.done)} left" if self.rate() and rest > 0 else ""


def bar(
    items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
) -> Iterator[T]:
    """A `Track` on stderr: a bar with count, rate, elapsed and remaining time, and note; on what is no terminal (a log
    file, a pipe) a line when it starts, one a minute, and one when it ends.

    `done` of `total` were finished before (a resumed run): they count, but not for the rate.
    """
    console, pace = Console(stderr=True), Pace(total, done, time.monotonic())
    draw = _drawn if console.is_terminal else _written
    return draw(items, console, pace, description, note)


def _drawn(items: Iterable[T], console: Console, pace: Pace, description: str, note: Callable[[], str]) -> Iterator[T]:
    texts = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("rate", "left", "note")]
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        texts[0],
        TimeElapsedColumn(),
        *texts[1:],
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(description, total=pace.total, completed=pace.before, rate="", left="", note="")
        for item in items:
            interrupts.raise_if_came()
            yield item
            pace.done += 1
            progress.update(task, advance=1, rate=pace.rate(), left=pace.left(), note=note())


def _written(
    items: Iterable[T], console: Console, pace: Pace, description: str, note: Callable[[], str]
) -> Iterator[T]:
    def say(what: str) -> None:
        count = f"{pace.before + pace.done} of {pace.total}"
        said = ", ".join(part for part in (what, pace.rate(), pace.left(), note()) if part)
        log(f"{description}: {count}{said and ', '}{said}")

    say("to begin with")
    told = pace.start
    for item in items:
        interrupts.raise_if_came()
        yield item
        pace.done += 1
        if time.monotonic() - told >= LINE_EVERY_S:
            told = time.monotonic()
            say("")
    say(f"took {duration(pace.seconds)}")


def announce(text: str) -> None:
    """A line of the log about what begins or has ended; nothing on a terminal, where bars show it."""
    if not sys.stderr.isatty():
        log(text)


def log(text: str) -> None:
    """One line with the time on stderr, at once: a log is read while it is written."""
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", file=sys.stderr, flush=True)


def telling(on_progress: OnProgress, draw: Track = bar) -> Track:
    """`draw` that also tells `on_progress` how far it is: every few seconds, and at the end of a long loop."""

    def track(
        items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
    ) -> Iterator[T]:
        told = start = time.monotonic()
        for item in draw(items, total=total, description=description, done=done, note=note):
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
