"""The files that a training run resumes from.

Each holds the whole state and carries its sha256 in its name, so what was flipped, cut off or emptied on a disk is
noticed before anything is made of it. The last two are kept: where one is damaged, training goes back to the other.
"""

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.files import seal, seal_holds, written_whole
from training.foreign_files import DAMAGE

KEPT = 2
_NAME = re.compile(r"(\d{9})-[0-9a-f]{64}\.pt")


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values to `folder` and removes all but the last two; a power cut leaves those whole."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{state['iteration']:09d}.pt"
    with written_whole(path) as unfinished:
        torch.save(state, unfinished)
    seal(path)
    for old in [*checkpoints(folder)[KEPT:], *folder.glob(".*.tmp")]:  # the latter of processes that were killed
        old.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first."""
    return sorted((path for path in folder.glob("*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def load_checkpoint(folder: Path, identity: str, *, quiet: bool = False) -> dict[str, Any] | None:
    """The newest checkpoint that is as it was written, on the CPU; None if there is none.

    Says on the terminal which ones were damaged, unless `quiet`. UserError if it belongs to another run than
    `identity`.
    """
    found = checkpoints(folder)
    for number, path in enumerate(found, start=1):
        state = _read(path)
        if state is None:
            if not quiet:
                goes_on = "the one before" if number < len(found) else "the beginning"
                print(f"flexseg: checkpoint {path} is damaged: training goes on from {goes_on}", file=sys.stderr)
        elif state["identity"] != identity:
            raise UserError(f"{folder} holds the checkpoint of another configuration or seed: remove it to start anew")
        else:
            return state
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """The state in a file, None where it is not the one that was written there. No code in the file is run."""
    try:
        if not seal_holds(path):
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, MemoryError, *DAMAGE):  # under a seal that holds: planted
        return None
    return state if isinstance(state, dict) and {"identity", "iteration"} <= state.keys() else None
