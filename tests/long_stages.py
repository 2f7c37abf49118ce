"""Stages for tests of time limits: importable by the process that a limited stage runs in, and free of torch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from flows.run import Run
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact, Stage

LOITER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def quick(run: Run, text: str) -> Artifact:
    """Makes an artifact, with progress."""

    def build(folder: Path) -> None:
        (folder / "text").write_text("".join(run.progress(text, total=len(text), description="Writing text")))

    return run.store.get_or_build(Stage("quick", 1), {"text": text}, {}, build)


def stubborn(run: Run, folder: Path) -> None:
    """Ignores SIGTERM, and so does a process that it starts. Leaves a file named after each."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    other = subprocess.Popen([sys.executable, "-c", LOITER])
    for process in (os.getpid(), other.pid):
        (folder / str(process)).touch()
    time.sleep(600)


def mistaken(run: Run) -> None:
    """Finds a mistake of the user."""
    raise UserError("labels/1.png: cannot be read")


def defective(run: Run) -> None:
    """Finds a mistake of ours."""
    raise ValueError("it is our fault")


def killed(run: Run) -> None:
    """Dies as if memory had run out."""
    os.kill(os.getpid(), signal.SIGKILL)
