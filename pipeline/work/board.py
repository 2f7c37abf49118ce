"""Several loops of other processes on one terminal: a bar for each, or lines of a log."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pipeline.work.progress import LINE_EVERY_S, OnProgress, Pace, log


class Board:
    """Where loops are shown that tell how far they are. Any thread may tell."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._paces: dict[str, Pace] = {}
        self._tasks: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def named(self, name: str) -> OnProgress:
        """What is told shows up under this name."""

        def told(description: str, done: int, total: int) -> None:
            with self._lock:
                self._show(f"{name}: {description}", done, total)

        return told

    def _show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        pace = self._paces.get(what)
        if pace is None or done < pace.before + pace.done:  # another loop of the same name
            pace = self._paces[what] = Pace(total, done, now)
        pace.done = done - pace.before
        if self._progress is None:
            if done == total or now - self._said.get(what, now - LINE_EVERY_S) >= LINE_EVERY_S:
                self._said[what] = now
                log(", ".join(part for part in (f"{what}: {done} of {total}", pace.rate(), pace.left()) if part))
            return
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, rate="", left="")
        task = self._progress.tasks[self._tasks[what]].id
        self._progress.update(task, total=total, completed=done, rate=pace.rate(), left=pace.left())


@contextmanager
def board() -> Iterator[Board]:
    """A board on stderr, as long as the loops go on."""
    if not sys.stderr.isatty():
        yield Board(None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Board(progress)
