"""Trains one segmenter: source scenes and, where the method says so, generated images -> a folder of weights."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from accelerate import Accelerator

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.datasets import Scene, class_pixels
from pipeline.devices import device_of
from pipeline.errors import UserError
from pipeline.progress import Track, silent
from pipeline.seeding import derive_seed
from training.data import GeneratedPool, Pool, ScenePool, TrainingSet
from training.draws import Drawer
from training.loop import Loop
from training.networks import Segmenter
from training.optimization import build_optimizer
from training.prototypes import PrototypeBank
from training.sampling import RareClassSampler
from training.validation import hold_out, mean_iou


def train(
    config: TrainingConfig,
    method: Method,
    seed: int,
    source: Sequence[Scene],
    generated: Path | None,
    folder: Path,
    *,
    machine: Machine,
    progress: Track = silent,
) -> None:
    """Writes `folder/segmenter/` (weights and config.json) and `folder/log.jsonl` (one line per block).

    `generated` is the folder of a generated data set. While the run is unfinished `folder/checkpoint/` lets a rerun
    go on where it stopped, to the same losses on a CPU; an interrupt (Ctrl-C) writes it before it propagates.
    UserError: no images, crops larger than images, a loss that diverges (the last good checkpoint is kept).
    """
    if not source:
        raise UserError("the source has no scenes to train on: mend 'data.source'")
    folder.mkdir(parents=True, exist_ok=True)
    training, held_out = hold_out(source, config.validation_scenes)
    temporary = folder / "checkpoint"
    pools: list[Pool] = [ScenePool(training, config.source_size)]
    if method.generated:
        pools.append(_generated_pool(generated, held_out, temporary / "datasets"))
    rare = _rare_classes(config, training, temporary / "class_pixels.npy", progress)
    loop = _loop(config, method, seed, pools=pools, rare=rare, folder=folder, machine=machine)
    loop.resume()
    watched = ScenePool(held_out, config.source_size)
    single = loop.accelerator.num_processes == 1  # ranks that stopped at different iterations would wait forever
    with torch.random.fork_rng(), _interrupts(deferred=single) as interrupted:
        loop.model.train()
        for batch in progress(loop.batches(), total=config.iterations, description="training", done=loop.iteration):
            loop.step(batch)
            if loop.at_block_end:
                _end_block(loop, watched)
            if interrupted():
                loop.save()
                raise KeyboardInterrupt
    if loop.accelerator.is_main_process:
        loop.segmenter.save_pretrained(folder / "segmenter")
        shutil.rmtree(loop.checkpoint, ignore_errors=True)


def _end_block(loop: Loop, watched: Pool) -> None:
    """Logs the block; validates and checkpoints where they are due."""
    record = loop.finish_block()
    last = loop.iteration == loop.config.iterations
    if len(watched) and (last or _due(loop, loop.config.validation_every)) and loop.accelerator.is_main_process:
        record["validation_miou"] = mean_iou(loop.segmenter, watched, loop.config.scale)
    loop.write_log(record)
    if last or _due(loop, loop.config.checkpoint_every):
        loop.save()


def _due(loop: Loop, every: int) -> bool:
    """Whether a multiple of `every` lies in the block that has just ended."""
    return loop.iteration // every > (loop.iteration - len(loop.draws)) // every


def _generated_pool(folder: Path | None, held_out: Sequence[Scene], cache: Path) -> GeneratedPool:
    if folder is None:
        raise UserError("this method trains on generated images, but none were given: add a 'generation' section")
    return GeneratedPool(folder, frozenset(scene.id for scene in held_out), cache)


def _rare_classes(
    config: TrainingConfig, scenes: Sequence[Scene], memory: Path, progress: Track
) -> RareClassSampler | None:
    """Counts every label map's classes, once per run: the counts outlive an interrupt in `memory`."""
    if not config.rare_classes:
        return None
    if memory.is_file():
        pixels = np.load(memory)
    else:
        pixels = class_pixels(scenes, progress)
        memory.parent.mkdir(parents=True, exist_ok=True)
        np.save(memory, pixels)
    if pixels.max() <= config.rare_class_pixels:
        raise UserError(
            f"no source image has more than training.rare_class_pixels {config.rare_class_pixels} px of any class:"
            " lower it, or set training.rare_classes to false"
        )
    return RareClassSampler(pixels, temperature=config.rare_class_temperature, minimum=config.rare_class_pixels)


def _loop(
    config: TrainingConfig,
    method: Method,
    seed: int,
    *,
    pools: Sequence[Pool],
    rare: RareClassSampler | None,
    folder: Path,
    machine: Machine,
) -> Loop:
    accelerator = Accelerator(
        cpu=device_of(machine).type == "cpu", mixed_precision="bf16" if config.precision == "bf16" else "no"
    )
    if config.batch_size % accelerator.num_processes:
        raise UserError(
            f"training.batch_size {config.batch_size} does not divide over {accelerator.num_processes} processes:"
            " make it a multiple"
        )
    segmenter = Segmenter.create(config.network, derive_seed(seed, "network"))
    optimizer, schedule = build_optimizer(segmenter, config.optimizer, config.iterations)
    model, optimizer = accelerator.prepare(segmenter, optimizer)
    bank = PrototypeBank(config.network.channels, granularities=len(config.gap.sizes), momentum=config.gap.momentum)
    return Loop(
        config=config,
        method=method,
        seed=seed,
        folder=folder,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        bank=bank.to(accelerator.device),
        drawer=Drawer(config, method, seed, [len(pool) for pool in pools], rare),
        samples=TrainingSet(pools, config, seed),
        loader_workers=machine.loader_workers,
    )


@contextmanager
def _interrupts(*, deferred: bool) -> Iterator[Callable[[], bool]]:
    """Holds back the first Ctrl-C, so that it can't fall into the middle of an update; gives a function that tells
    whether it came. A second one acts at once. Outside the main thread nothing can be held back."""
    if not deferred or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)
