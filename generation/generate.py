"""From a plan to a data set of images: the plan is written down, shards are painted, the card says what came out."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from generation.card import write_card
from generation.plan import PLAN, plan_text, read_plan
from generation.shards import LIBRARIES, load_painter, split
from pipeline.config.generation import GenerationConfig
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene
from pipeline.errors import UserError
from pipeline.files import written_whole
from pipeline.requests import GenerationRequest
from pipeline.work.progress import Track, silent
from pipeline.work.units import WORK, Executor, make_all
from pipeline.work.workers import run

DESCRIPTION = "Generating images"
HERE = partial(run, preload=LIBRARIES)
"""The local executor; painting processes without a GPU share what they import."""


def generate(
    config: GenerationConfig,
    requests: Sequence[GenerationRequest],
    scenes: Sequence[Scene],
    folder: Path,
    *,
    machine: Machine,
    progress: Track = silent,
    execute: Executor = HERE,
) -> None:
    """Write the data set of `requests` into `folder`: `plan.jsonl` first, `data/train-*.parquet`, a dataset card.

    Shards that are already there are kept, so an interrupted call continues where it stopped, and several calls, on
    one or more machines, may work on one folder. The bytes depend on the config and the requests alone, not on what was
    there before nor on who painted (on one kind of machine): `execute` says who. `folder/.work` stays for the store to
    remove. Raises UserError where `folder` holds another plan.
    """
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    _write_down(requests, folder)
    shards = split(requests, config.shard_size, folder)
    sources = {request.source for request in requests}
    load = partial(load_painter, config, [scene for scene in scenes if scene.id in sources], machine)
    make_all(shards, load, machine=machine, execute=execute, progress=progress, description=DESCRIPTION)
    if not all(shard.done for shard in shards):
        raise UserError(f"{folder / WORK} was removed while images were painted into {folder}: run the command again")
    write_card(config, requests, folder)


def join(
    config: GenerationConfig, scenes: Sequence[Scene], folder: Path, *, machine: Machine, progress: Track = silent
) -> None:
    """Paint shards into `folder` beside another call of `generate`, which finishes the data set, until none is left."""
    if not (folder / WORK).is_dir():
        raise UserError(f"nothing to join, no images are being painted in {folder}: run it without --join")
    shards = split(read_plan(folder), config.shard_size, folder)
    load = partial(load_painter, config, scenes, machine)
    make_all(shards, load, machine=machine, execute=HERE, progress=progress, description=DESCRIPTION)


def _write_down(requests: Sequence[GenerationRequest], folder: Path) -> None:
    path, text = folder / PLAN, plan_text(requests)
    if not path.exists():
        with written_whole(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise UserError(f"{folder} holds a data set of another plan: name a new folder, or delete that one")
