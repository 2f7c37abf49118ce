"""A segmenter trained on a Ray cluster: one Ray Train job over its nodes, or one task where one process trains.

The ranks run `training.train.train_rank` as everywhere else. Its folder, with the checkpoint, is on a file system that
all nodes share. When a rank, its worker or its node dies, the job is started again from the last checkpoint.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import ray
from ray.exceptions import RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from flows.ray import cluster as ray_cluster
from flows.time_limits import EndedError
from pipeline.errors import UserError, one_line
from pipeline.work.progress import Track, silent
from training.checkpoints import checkpoints
from training.launch import TIMEOUT, backend
from training.train import Job, train_rank

STOP = ".stop"
"""The file by which the driver asks the ranks to write a checkpoint and end: all see it, and it outlives none."""
MOST_FAILURES = 3
"""In a row, without a new checkpoint between them."""
LOOK_S = 1.0
"""How often ranks look for `STOP`, and the driver for new lines of the log."""
SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a busy node needs minutes to import torch
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
}


class _Rank(NamedTuple):
    """What every rank is told."""

    job: Job
    cwd: str


def launch(job: Job, progress: Track) -> None:
    """Trains on the cluster: a `training.train.Launch`.

    An interrupt lets the ranks write a checkpoint and propagates. UserError: no cluster, too few GPUs or nodes, files
    that a node does not see, what a rank finds; EndedError: it keeps dying.
    """
    with ray_cluster.connected(), _shown(job.folder) as token:
        machine = job.machine
        kind = ray_cluster.resource(machine, machine.processes)
        ray_cluster.check_nodes([token, *_inputs(job)], kind)
        device = "cuda" if kind == "GPU" else "cpu"
        job = replace(job, folder=job.folder.absolute(), machine=machine.model_copy(update={"device": device}))
        (job.folder / STOP).unlink(missing_ok=True)
        trained: Future[None] = Future()
        threading.Thread(target=_fulfil, args=(trained, job, kind), daemon=True).start()
        try:
            log = TrainingLog(job.folder / "log.jsonl")
            total, done = job.config.iterations, log.iteration
            for _ in progress(log.follow(trained), total=total, description="training", done=done, note=log.note):
                pass
            trained.result()
        except BaseException:
            if not trained.done():  # Ctrl-C, or what a signal's handler raises
                (job.folder / STOP).touch()
                wait_for([trained])
            raise
        finally:
            (job.folder / STOP).unlink(missing_ok=True)


@contextmanager
def _shown(folder: Path) -> Iterator[Path]:
    """A file in `folder` that no other folder has: a node that sees it sees the folder."""
    token = folder / f".{uuid4().hex}"
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _inputs(job: Job) -> list[Path]:
    """Files and folders that a node must be able to read."""
    first, encoder = job.source[0], job.config.network.pretrained
    paths = [path for path in (first.image, first.label, *job.generated) if path is not None]
    return [*paths, Path(encoder)] if encoder is not None and Path(encoder).is_dir() else paths


def _fulfil(trained: "Future[None]", job: Job, kind: str) -> None:
    try:
        _train(job, kind)
    except BaseException as error:
        trained.set_exception(error)
    else:
        trained.set_result(None)


def _train(job: Job, kind: str) -> None:
    """Starts the ranks, and again when some have died. Returns when they have finished or were asked to stop."""
    failures, place = 0, job.folder / "checkpoint"
    while True:
        before = checkpoints(place)[:1]
        try:
            return _attempt(_Rank(job, str(Path.cwd())), kind)
        except (RayError, TrainingFailedError) as error:
            causes = _causes(error)
            for cause in causes:
                if isinstance(cause, UserError):
                    raise cause from None
            if not all(map(may_pass, causes)):
                raise  # with the traceback
            if (job.folder / STOP).exists():
                return None
            failures = failures + 1 if checkpoints(place)[:1] == before else 1
            if failures == MOST_FAILURES:
                raise EndedError(
                    f"training on Ray failed {failures} times without a new checkpoint between; the last one is kept:"
                    f" {one_line(causes[-1])}"
                ) from error
        print("flexseg: training on Ray lost a process; it is started again from the last checkpoint", file=sys.stderr)
        _wait_for_nodes(job, kind)


def _attempt(rank: _Rank, kind: str) -> None:
    count = rank.job.machine.processes
    if count == 1:
        ray.get(ray.remote(_on_rank).options(max_retries=0, **ray_cluster.options(kind)).remote(rank))
        return
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as place:  # Ray Train's notes: the checkpoints are ours
        TorchTrainer(
            _on_rank,
            train_loop_config=rank._asdict(),
            torch_config=TorchConfig(backend(rank.job.machine.device), timeout_s=int(TIMEOUT.total_seconds())),
            scaling_config=ScalingConfig(
                num_workers=count,
                use_gpu=kind == "GPU",
                resources_per_worker={"CPU": 1, **({"GPU": 1} if kind == "GPU" else {})},
                placement_strategy="PACK",  # ranks talk at every step; those that one node has no room for spread
            ),
            run_config=RunConfig(name="training", storage_path=place, failure_config=FailureConfig(max_failures=0)),
        ).fit()


def _on_rank(told: Any) -> None:
    """What a rank does."""
    rank = _Rank(**told) if isinstance(told, dict) else told
    ray_cluster.enter(rank.cwd)
    stop = StopFile(rank.job.folder / STOP)
    try:
        train_rank(rank.job, silent, stop)
    except KeyboardInterrupt:
        if not stop():
            raise RuntimeError("this rank's node asked it to end") from None


class StopFile:
    """A `training.launch.Stop` that looks at the file system at most once per `LOOK_S`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._next = 0.0
        self._seen = False

    def __call__(self) -> bool:
        if not self._seen and time.monotonic() >= self._next:
            self._seen = self._file.exists()
            self._next = time.monotonic() + LOOK_S
        return self._seen


class TrainingLog:
    """The training's log, which rank 0 writes, as progress."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last: dict[str, Any] = {"iteration": 0}
        self._look()
        self.iteration: int = self._last["iteration"]

    def follow(self, trained: "Future[None]") -> Iterator[None]:
        """One item for each iteration after `iteration`, until `trained` is done."""
        while True:
            wait_for([trained], LOOK_S)
            ended = trained.done()
            self._look()
            while self.iteration < self._last["iteration"]:
                self.iteration += 1
                yield
            if ended:
                return

    def note(self) -> str:
        """What the bar says beside."""
        return f"loss {self._last['loss']:.3f}" if "loss" in self._last else ""

    def _look(self) -> None:
        lines = self._file.read_text().splitlines(keepends=True) if self._file.is_file() else []
        if whole := [line for line in lines if line.endswith("\n")]:
            self._last = json.loads(whole[-1])


def _causes(error: Exception) -> list[Exception]:
    """What the processes raised that failed."""
    if isinstance(error, WorkerGroupError):
        return list(error.worker_failures.values())
    return [error.cause] if isinstance(error, RayTaskError) else [error]


def may_pass(cause: Exception) -> bool:
    """Whether it tells that a process was lost: Ray says so, or torch of the other ranks' connections to it."""
    return isinstance(cause, RuntimeError) or type(cause).__module__.partition(".")[0] in {"ray", "torch"}


def _wait_for_nodes(job: Job, kind: str) -> None:
    """Returns when the cluster is large enough again, or the driver wants to stop."""
    told = False
    while ray_cluster.total(kind) < job.machine.processes and not (job.folder / STOP).exists():
        if not told:
            print(f"flexseg: waiting until the Ray cluster has {job.machine.processes} {kind}s again", file=sys.stderr)
        told = True
        time.sleep(LOOK_S)
