"""Parts of a measurement, one after the other within a time limit; each row is written down as soon as it is known."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from benchmarks.record import Row, machine
from pipeline.errors import one_line
from pipeline.files import write_json

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy")


class Bench(NamedTuple):
    """What is measured on. `toy` takes toy town's networks, so that every part can be tried on a CPU in seconds."""

    device: torch.device
    toy: bool
    work: Path
    """A folder for files that are made on the way."""


class Part(NamedTuple):
    """One measurement: its name, the seconds below which it is not begun, and what measures it, row by row.

    `measure` is told by `time.monotonic` when it must have ended.
    """

    name: str
    least: float
    measure: Callable[[Bench, float], Iterator[Row]]


class OutOfTimeError(Exception):
    """The minutes are over."""


class Results:
    """The file that holds all rows. It is written anew with every row."""

    def __init__(self, path: Path, title: str) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "title": title,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "versions": {package: version(package) for package in PACKAGES},
            "parts": {},
        }

    def add(self, part: str, row: Row) -> None:
        """Print a row and write it down."""
        print(f"{part}: " + ", ".join(f"{name} {_text(value)}" for name, value in row.items()), flush=True)
        self.content["parts"].setdefault(part, {"rows": []})["rows"].append(dict(row))
        self.write()

    def end(self, part: str, how: str, seconds: float) -> None:
        """Note how a part ended."""
        print(f"{part}: {how} after {seconds:.1f} s", flush=True)
        self.content["parts"].setdefault(part, {"rows": []}).update(ended=how, seconds=round(seconds, 1))
        self.write()

    def write(self) -> None:
        """Write the file whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.content)


def measure_all(parts: Sequence[Part], bench: Bench, results: Results, seconds: float) -> None:
    """Measures the parts in turn for as long as there is time. One that fails or is cut off keeps its rows, and the
    next one begins."""
    end = time.monotonic() + seconds
    for part in parts:
        begun = time.monotonic()
        if end - begun < max(part.least, 0.01):
            results.end(part.name, f"not begun, {max(0.0, end - begun):.0f} s are left of {part.least:.0f} s", 0.0)
            continue
        try:
            with _until(end):
                for row in part.measure(bench, end):
                    results.add(part.name, row)
            how = "whole"
        except OutOfTimeError:
            how = "cut off, the minutes are over"
        except Exception as error:
            how = f"failed: {type(error).__name__}: {one_line(error)}"
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        results.end(part.name, how, time.monotonic() - begun)


@contextmanager
def _until(end: float) -> Iterator[None]:
    """Within it OutOfTimeError is raised at `end` (by `time.monotonic`)."""

    def over(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, end - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait(device: torch.device) -> None:
    """Until the GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """How long a call takes."""
    wait(device)
    begun = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - begun


def _text(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
