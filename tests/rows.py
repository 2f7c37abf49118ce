"""Stages of rows that are made side by side: importable by the processes that they run in, and free of torch."""

import os
import signal
import time
from pathlib import Path

from flows.run import Run

TRAINING_S = 1.0


def segmenter(run: Run, folder: Path, row: str) -> str:
    """Notes when it was where. The row `killed` is ended once, as if memory had run out."""
    start, device = time.time(), os.environ["CUDA_VISIBLE_DEVICES"]
    if row == "killed" and not (folder / "was-killed").exists():
        (folder / "was-killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in run.progress(range(4), total=4, description="training"):
        time.sleep(TRAINING_S / 4)
    (folder / f"{row}.row").write_text(f"{device} {start} {time.time()}")
    return f"{row} on {device}"


def defective(run: Run, folder: Path, row: str) -> str:
    """Fails in one row; the others begin to work when it has."""
    failed = folder / "failed"
    if row == "defective":
        failed.touch()
        raise ValueError("it is our fault")
    while not failed.exists():
        time.sleep(0.05)
    time.sleep(4 * TRAINING_S)
    return segmenter(run, folder, row)
