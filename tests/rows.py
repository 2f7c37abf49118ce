"""Stages of rows that are made side by side, importable by the processes that they run in; what is slow comes late."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from flows.run import Run
from pipeline.store.artifacts import Artifact

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


def evaluation(run: Run, folder: Path, row: str) -> None:
    """Notes when it began."""
    (folder / f"{row}.scored").write_text(str(time.time()))


def real_segmenter(run: Run, method: str, seed: int, images: Artifact | None) -> Artifact:
    """A real training, with a note as above. The row b, seed 1 is ended once, when it has a checkpoint."""
    from flows import stages  # slow to import
    from flows.recipes import segmenter_recipe

    folder = run.config.machine.store / "notes"
    folder.mkdir(exist_ok=True)
    start, device, killed = time.time(), os.environ["CUDA_VISIBLE_DEVICES"], folder / "was-killed"
    if (method, seed) == ("b", 1) and not killed.exists():

        def kill() -> None:
            place = run.store.partial(*segmenter_recipe(run, method, seed)) / "checkpoint"
            while not list(place.glob("*.pt")):
                time.sleep(0.01)
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
    artifact = stages.segmenter(run, method, seed, images)
    (folder / f"{method}-{seed}.row").write_text(f"{device} {start} {time.time()}")
    return artifact


def on_ray(run: Run, folder: Path, row: str) -> None:
    """Has a Ray cluster train, as the stage does; `ray_rank` stands in for what a rank does."""
    import numpy as np

    from flows.ray import training as ray_training
    from pipeline.config.training import Method
    from pipeline.data.datasets import Scene
    from training.train import Job

    ray_training._on_rank = ray_rank
    (folder / row).mkdir()
    scene, machine = Scene("0", folder, folder, {}), run.config.machine
    job = Job(run.config.training, Method(), 0, [scene], [], folder / row, machine, np.zeros((1, 19)))
    ray_training.launch(job, run.progress)


def ray_rank(told: Any) -> None:
    """Notes on which GPU of which node it was when; the first rank of the row `killed` is ended."""
    import ray

    start, folder = time.time(), told.job.folder
    device = f"{ray.get_runtime_context().get_node_id()}:{os.environ['CUDA_VISIBLE_DEVICES']}"
    if folder.name == "killed" and not (folder / "was-killed").exists():
        (folder / "was-killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(TRAINING_S)
    (folder.parent / f"{folder.name}.row").write_text(f"{device} {start} {time.time()}")


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
