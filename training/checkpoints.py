"""One file that a training run resumes from, replaced as a whole."""

import os
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError

FILE = "state.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values to `folder`; the last checkpoint stays whole until the new one is."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # on the disk before the rename is
    os.replace(partial, folder / FILE)


def load_checkpoint(folder: Path, identity: str) -> dict[str, Any] | None:
    """The last checkpoint on the CPU, or None. UserError if it belongs to another run than `identity`."""
    if not (folder / FILE).is_file():
        return None
    state: dict[str, Any] = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    if state["identity"] != identity:
        raise UserError(f"{folder} holds the checkpoint of another configuration or seed: remove it to start anew")
    return state
