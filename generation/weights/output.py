"""Where trained networks go, and from which weights they start."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from generation.folders import write_layout
from generation.weights.checkpoints import discard
from generation.weights.loop import CHECKPOINT
from pipeline.config.base import Section
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.seeding import derive_seed
from pipeline.store.manifest import file_table

TRAINING, BANK = "training", "bank"
"""Folders of an output: what trainings write beside the networks, and the renders that toy town's are trained on."""
PATHS = ("_name_or_path", "name_or_path")
"""What the libraries note in a config: where the network was read from on this machine."""


def publish(network: Any, folder: Path) -> None:
    """Save a finished network so that its folder appears only complete; of several processes the main one does it."""
    state = PartialState()
    if state.is_main_process:
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        network.save_pretrained(partial)
        forget_paths(partial)
        write_layout(partial)
        _record(folder).parent.mkdir(parents=True, exist_ok=True)
        write_json(_record(folder), file_table(partial))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    state.wait_for_everyone()


def published(folder: Path) -> bool:
    """Whether a network was published to `folder`. One whose files are not those that were written is removed, with a
    line on stderr, so that it is made again."""
    state = PartialState()
    if state.is_main_process and folder.exists() and not _is_whole(folder):
        print(f"flexseg: {folder} is damaged: {folder.name} is trained again", file=sys.stderr)
        shutil.rmtree(folder)
    state.wait_for_everyone()
    return folder.exists()


def forget_paths(folder: Path) -> None:
    """Leave nothing about this machine in the configs below `folder`: the same training gives the same files."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and any(name in content for name in PATHS):
            kept = {name: value for name, value in content.items() if name not in PATHS}
            file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def remove_unneeded(folder: Path) -> None:
    """Remove what only unfinished trainings need from the output in `folder`: checkpoints, renders, records of files.

    So what is passed on holds networks, logs and previews.
    """
    if PartialState().is_main_process:
        for training in (folder / TRAINING).iterdir():
            if training.is_dir():
                discard(training / CHECKPOINT)
            elif training.name.endswith(".files.json"):
                training.unlink()
        shutil.rmtree(folder / BANK, ignore_errors=True)


@contextmanager
def initialization(seed: int, name: str) -> Iterator[None]:
    """Networks built inside get initial weights that depend on `seed` and `name` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed("weights", seed, name))
        yield


def claim(folder: Path, config: Section) -> None:
    """Note which config the trainings in `folder` follow. UserError where they were begun with another one."""
    note, content = folder / TRAINING / "config.json", config.model_dump(mode="json")
    if not note.exists():
        if PartialState().is_main_process:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, content)
        return
    try:
        same = json.loads(note.read_text(encoding="utf-8")) == content
    except ValueError:
        same = False
    if not same:
        raise UserError(
            f"{folder} holds a training of another 'weights' section, see {note}: take a new folder, or that config"
        )


def _record(folder: Path) -> Path:
    return folder.parent / TRAINING / f"{folder.name}.files.json"


def _is_whole(folder: Path) -> bool:
    try:
        return bool(json.loads(_record(folder).read_text(encoding="utf-8")) == file_table(folder))
    except (OSError, ValueError):
        return False
