"""Trains one segmenter: source scenes and, where the method says so, generated images -> a folder of weights."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.statistics import class_pixels
from pipeline.errors import UserError
from pipeline.seeding import derive_seed
from pipeline.work.devices import device_of, loader_workers, set_up_gpu
from pipeline.work.progress import Track, announce, silent
from training.data import TrainingSet
from training.decoded import DecodedCopies
from training.draws import Drawer, rare_classes, source_pairs
from training.interrupts import noticed
from training.launch import Stop, run_on_ranks, share
from training.loop import Loop
from training.networks import Segmenter
from training.optimization import build_optimizer
from training.pools import GeneratedPool, ImagePool, ScenePool
from training.processes import check_devices, check_processes, started_processes
from training.state import StepState
from training.synchronized import synchronize_norms
from training.tracking import check_tracker, start_tracking, stop_tracking
from training.validation import draw_learning_curve, hold_out

COPY = ".generated.arrow"
"""With a dot: a store does not send it to other machines, which make their own."""


@dataclass(frozen=True)
class Job:
    """What every process of a training run is told. pixels: (N,19) px of each class in each of the `source` scenes;
    scored: the folders with the alignment scores of `generated`."""

    config: TrainingConfig
    method: Method
    seed: int
    source: Sequence[Scene]
    generated: Sequence[Path]
    folder: Path
    machine: Machine
    pixels: np.ndarray
    scored: Mapping[Path, Path] = field(default_factory=dict)


Launch = Callable[[Job, Track], None]
"""Calls `train_rank(job, progress, stop)` on `job.machine.processes` processes that form a process group, wherever they
are, and returns when they are done. They all must see `job.folder`."""


def train(
    config: TrainingConfig,
    method: Method,
    seed: int,
    source: Sequence[Scene],
    generated: Sequence[Path],
    folder: Path,
    *,
    machine: Machine,
    pixels: np.ndarray | None = None,
    scored: Mapping[Path, Path] = {},
    progress: Track = silent,
    launch: Launch | None = None,
) -> None:
    """Writes into `folder`: `segmenter/` (weights, config.json and card), `log.jsonl` (one line per block),
    `learning_curve.png`, `previews/` (held-out scenes at each validation) and, with a tracker, `tracking/`.

    `generated` are the folders of generated data sets; `pixels` the source's class statistics (see
    `pipeline.data.statistics.class_pixels`), counted here if they are not given; `scored` the folders of `alignment`
    artifacts of those of `generated` that have no such columns, wanted for `minimum_alignment` alone. It trains in
    `machine.processes` processes of this machine, in those that torchrun or accelerate launch have started, or where
    `launch` has them run. While the run is unfinished `folder/checkpoint/` lets a rerun go on where it stopped, to the
    same losses on a CPU; an interrupt (Ctrl-C, SIGTERM) writes it before it propagates. The number of processes may
    differ in the rerun: losses then agree but for rounding and dropout.
    UserError: no images, no labeled pixel, crops larger than images, a loss that diverges (the last good checkpoint is
    kept).
    """
    config = config.of(method)
    check_training(config, method, source, generated, machine)
    if launch is None:
        check_devices(machine)
    folder.mkdir(parents=True, exist_ok=True)
    with noticed() as interrupts:
        if pixels is None:
            pixels = class_pixels(source, progress)
        job = Job(config, method, seed, tuple(source), tuple(generated), folder, machine, pixels, scored)
        if launch is not None:
            launch(job, progress)
        elif started_processes() > 1:
            share(train_rank, (job, progress))
        elif machine.processes > 1:
            run_on_ranks(machine.processes, device_of(machine).type, train_rank, (job, progress))
        else:
            train_rank(job, progress, lambda: interrupts.came)


def check_training(
    config: TrainingConfig, method: Method, source: Sequence[Scene], generated: Sequence[Path], machine: Machine
) -> None:
    """UserError for what can be seen to be wrong before anything is read."""
    if not source:
        raise UserError("the source has no scenes to train on: correct 'data.source'")
    if method.generated and not generated:
        raise UserError("this method trains on generated images, but none were given: add a 'generation' section")
    if machine.compile and (method.feature_distance or method.shade):
        raise UserError("feature_distance and shade look into the encoder, which machine.compile hides: switch one off")
    check_tracker(machine.tracker)
    check_processes(config, machine)


def train_rank(job: Job, progress: Track, stop: Stop) -> None:
    """One process's part of `train`."""
    with noticed() as interrupts:
        loop, watched = prepare(job)
        main = loop.accelerator.is_main_process
        if main:
            announce(f"training: loader processes of each training process: {loop.loader_workers}")
        start_tracking(loop.accelerator, job.folder, loop.identity)
        loop.resume()
        loop.run(watched, progress if main else silent, interrupts, stop)
        stop_tracking(loop.accelerator)
        if main:
            loop.segmenter.save_pretrained(job.folder / "segmenter")
            draw_learning_curve(loop.log, job.folder / "learning_curve.png")
        if interrupts.came:  # and its exception was lost on the way: stop here as it asked, with the checkpoint
            raise KeyboardInterrupt
        if main:
            shutil.rmtree(loop.checkpoint, ignore_errors=True)


def prepare(job: Job) -> tuple[Loop, ImagePool]:
    """The loop of a job before its first iteration, and the held-out scenes."""
    config, machine = job.config, job.machine
    training, held_out = hold_out(job.source, config.validation_scenes)
    rare = rare_classes(config, _class_pixels(job, training))
    accelerator = Accelerator(
        cpu=device_of(machine).type == "cpu",
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        log_with=machine.tracker,
        project_config=ProjectConfiguration(logging_dir=str(job.folder)),
    )
    assert accelerator.num_processes == max(started_processes(), 1), "Accelerate did not see all processes"
    set_up_gpu(accelerator.device, config.precision, autotune=machine.autotune)  # crops are of one size
    pairs = source_pairs(config, rare)
    scenes = training if pairs is None else [training[index] for index, _ in pairs]
    pools = _pools(job, accelerator, scenes, held_out)
    segmenter = Segmenter.create(config.network, derive_seed(job.seed, "network"), config.scale)
    if accelerator.device.type == "cuda":
        segmenter.to(memory_format=torch.channels_last)
    state = StepState.create(config, job.method, segmenter)
    optimizer, schedule = build_optimizer(segmenter, config.optimizer, config.iterations)
    synchronize_norms(segmenter, accelerator.device)
    if machine.compile:
        segmenter.compile()
    model, optimizer = accelerator.prepare(segmenter, optimizer)
    loop = Loop(
        config=config,
        method=job.method,
        seed=job.seed,
        folder=job.folder,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        state=state.to(accelerator.device),
        drawer=Drawer(
            config,
            job.method,
            job.seed,
            [len(pool) for pool in pools],
            rare,
            classes=None if pairs is None else [wanted for _, wanted in pairs],
        ),
        samples=TrainingSet(pools, config, job.seed),
        loader_workers=loader_workers(machine),
    )
    return loop, ScenePool.of(held_out, config, _decoded(job))


def _decoded(job: Job) -> DecodedCopies | None:
    copies = job.machine.decoded_copies
    return None if copies is None else DecodedCopies(copies)


def _pools(job: Job, accelerator: Accelerator, scenes: Sequence[Scene], held_out: Sequence[Scene]) -> list[ImagePool]:
    """What is trained on: the source's `scenes`, and the generated images that show no held-out scene."""
    config = job.config
    pools: list[ImagePool] = [ScenePool.of(scenes, config, _decoded(job))]
    if job.method.generated:
        excluded, copy = frozenset(scene.id for scene in held_out), job.folder / "checkpoint" / COPY
        # One rank writes the copy, the others find it there.
        with accelerator.main_process_first():
            write = accelerator.is_main_process
            pool = GeneratedPool(job.generated, config, excluded=excluded, copy=copy, write=write, scored=job.scored)
            pools.append(pool)
    return pools


def _class_pixels(job: Job, training: Sequence[Scene]) -> np.ndarray:
    """The class statistics of the scenes that are trained on. UserError where none of them has a labeled pixel."""
    chosen = {scene.id for scene in training}
    pixels = job.pixels[[scene.id in chosen for scene in job.source]]
    if not pixels.any():
        raise UserError(
            f"none of the {len(training)} label maps that would be trained on holds a pixel of a class, all of them are"
            " ignored: correct 'labels' or 'ids' of data.source"
        )
    return pixels
