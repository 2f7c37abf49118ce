"""Losses to TensorBoard or Weights & Biases, through Accelerate. Nothing reads them back: log.jsonl is the record."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from pipeline.errors import UserError


def check_tracker(name: str | None) -> None:
    """UserError if the tracker's package is not installed: Accelerate would leave the tracker out without a word."""
    if name is not None and find_spec(name) is None:
        raise UserError(
            f"machine.tracker is {name!r}, but that package is not installed: install it (pip install {name}), or set"
            " machine.tracker to tensorboard or null"
        )


def start_tracking(accelerator: Accelerator, folder: Path, identity: str) -> None:
    """Opens the tracker that the accelerator was made with, if any. A resumed run goes on in the same one."""
    place = folder / "tracking"
    place.mkdir(exist_ok=True)
    resumable: dict[str, Any] = {"dir": str(place), "id": identity, "resume": "allow"}
    project = "flexseg" if "wandb" in map(str, accelerator.log_with) else place.name  # TensorBoard's folder
    accelerator.init_trackers(project, init_kwargs={"wandb": resumable})


def stop_tracking(accelerator: Accelerator) -> None:
    """Writes out what is left. (`Accelerator.end_training` would end the process group with it.)"""
    for tracker in accelerator.trackers:
        tracker.finish()
