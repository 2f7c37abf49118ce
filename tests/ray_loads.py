"""What workers on Ray nodes load in tests and benchmarks: no torch, and as slow or as broken as a test wants it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError
from pipeline.work.units import Make


def load_sleeper(seconds: float, device: str) -> Make:
    """Sleeps and writes the task and how many files this process has made."""
    made = 0

    def make(task: str, path: Path) -> Iterator[None]:
        nonlocal made
        made += 1
        time.sleep(seconds)
        path.write_text(f"{task} {os.getpid()} {made}")
        yield

    return make


def load_stamper(seconds: float, size: int, device: str) -> Make:
    """Sleeps and writes `size` bytes, which begin with the process and the time of the end."""

    def make(task: object, path: Path) -> Iterator[None]:
        time.sleep(seconds)
        path.write_bytes(f"{os.getpid()} {time.time()}\n".encode().ljust(size))
        yield

    return make


def load_killed(times: int, notes: Path, device: str) -> Make:
    """The first `times` processes that get task "b" kill themselves over it."""

    def make(task: str, path: Path) -> Iterator[None]:
        if task == "b" and len(list(notes.iterdir())) < times:
            (notes / str(os.getpid())).touch()
            time.sleep(1)  # the file that it made before must have left it, else that one counts as what it died over
            os.kill(os.getpid(), signal.SIGKILL)
        path.write_text(task)
        yield

    return make


def load_mistaken(device: str) -> Make:
    """Finds a mistake of the user in task "b", and a defect of ours in task "c"."""

    def make(task: str, path: Path) -> Iterator[None]:
        if task == "b":
            raise UserError("labels/b.png: cannot be read")
        if task == "c":
            raise ValueError("it is our fault")
        path.write_text(task)
        yield

    return make
