"""Where trained networks go, and from which weights they start."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from pipeline.config.weights import WeightsConfig
from pipeline.errors import UserError
from pipeline.seeding import derive_seed


def publish(network: Any, folder: Path) -> None:
    """Save a finished network so that its folder appears only complete; of several processes the main one does it."""
    state = PartialState()
    if state.is_main_process:
        partial = folder.with_name(f"{folder.name}.partial")
        network.save_pretrained(partial)
        partial.replace(folder)
    state.wait_for_everyone()


@contextmanager
def initialization(seed: int, name: str) -> Iterator[None]:
    """Networks built inside get initial weights that depend on `seed` and `name` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed("weights", seed, name))
        yield


def claim(folder: Path, config: WeightsConfig) -> None:
    """Note which config the trainings in `folder` follow. UserError where they were begun with another one."""
    note, text = folder / "training" / "config.json", config.model_dump_json(indent=1)
    if not note.exists():
        if PartialState().is_main_process:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.with_suffix(".partial").write_text(text, encoding="utf-8")
            note.with_suffix(".partial").replace(note)
    elif note.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{folder} holds a training of another 'weights' section, see {note}: take a new folder, or that config"
        )
