"""Processes that paint the shards of a data set side by side. Any of them may die at any moment."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from generation.shards import Shard, paint_shards, shard_painter
from pipeline.config.generation import GenerationConfig
from pipeline.config.machine import Machine
from pipeline.datasets import Scene
from pipeline.errors import UserError
from pipeline.records import GenerationRequest

Work = Callable[[str], Iterator[int]]
"""Paints on a device; after each image, how many would be lost now. Sent to processes, so it must pickle."""

MOST_ON_CPU = 4  # `auto` on a large machine: every worker holds the networks in memory
MOST_DEATHS = 3  # in a row, without a shard being finished


@dataclass
class Worker:
    """A process, what it tells (ends when it does), and how many images are lost if it dies now."""

    process: SpawnProcess
    told: Connection
    device: str
    unsaved: int = 0


def paint(
    shards: Sequence[Shard], config: GenerationConfig, scenes: Sequence[Scene], machine: Machine
) -> Iterator[None]:
    """Paint the shards that are missing, with as many processes as `machine` says; one item per image."""
    missing = [shard for shard in shards if not shard.done]
    devices = worker_devices(machine, len(missing))
    if len(devices) <= 1:
        images: Iterator[object] = paint_shards(missing, config, scenes, devices[0]) if devices else iter(())
    else:
        sources = {request.source for shard in missing for request in shard.requests}
        needed = [scene for scene in scenes if scene.id in sources]
        images = watch(partial(paint_shards, missing, config, needed), devices)
    left = sum(len(shard.requests) for shard in missing)
    for _ in images:
        left -= 1
        yield
    yield from [None] * left  # painted by other calls


def worker_devices(machine: Machine, shards: int) -> list[str]:
    """The device of each worker, never more workers than shards. Raises UserError where there is no such device."""
    wanted = machine.generation_workers
    gpus = 0
    if machine.device != "cpu":
        import torch  # slow to import

        from pipeline.devices import device_of

        gpus = torch.cuda.device_count() if device_of(machine).type == "cuda" else 0
    if gpus == 0:
        return ["cpu"] * min(shards, min(_cores(), MOST_ON_CPU) if wanted == "auto" else wanted)
    return [f"cuda:{k % gpus}" for k in range(min(shards, gpus if wanted == "auto" else wanted))]


def measure(
    config: GenerationConfig, requests: Sequence[GenerationRequest], scenes: Sequence[Scene], machine: Machine
) -> float:
    """Seconds in which one worker paints `requests`, without loading; on a GPU it paints them once before."""
    device = worker_devices(machine, 1)[0]
    make_samples = shard_painter(config, scenes, device)
    if device != "cpu":
        list(make_samples(requests))
    start = time.perf_counter()
    list(make_samples(requests))
    return time.perf_counter() - start


def watch(work: Work, devices: Sequence[str]) -> Iterator[None]:
    """Run `work` in one process per device until all are done; one item per image. A process that dies is replaced.

    Raises the UserError of a process, or one when they keep dying.
    """
    workers = [_start(work, device) for device in devices]
    deaths, repainted = 0, 0
    try:
        while workers:
            ready = wait([worker.told for worker in workers])
            for worker in [worker for worker in workers if worker.told in ready]:
                message = _receive(worker)
                if isinstance(message, int):
                    worker.unsaved = message
                    deaths = 0 if message == 0 else deaths
                    repainted -= 1
                    if repainted < 0:  # an image that was not counted before
                        repainted = 0
                        yield
                    continue
                workers.remove(worker)
                if end := _ended(worker, message):
                    deaths += 1
                    repainted += worker.unsaved
                    _complain(end, deaths)
                    workers.append(_start(work, worker.device))
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _start(work: Work, device: str) -> Worker:
    """Start a worker that Ctrl-C does not reach: whoever watches it ends it."""
    spawn = multiprocessing.get_context("spawn")  # CUDA and threads survive no fork
    told, tells = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_work, args=(work, device, tells), daemon=True)
    resource_tracker.ensure_running()  # before the signal is blocked: its own start unblocks it in Python 3.11
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the new process inherits it
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        tells.close()  # so that `told` ends with the process
    return Worker(process, told, device)


def _work(work: Work, device: str, tells: Connection) -> None:
    """What a worker does: paint, and tell after each image; at last perhaps a UserError or a traceback."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for unsaved in work(device):
            tells.send(unsaved)
    except UserError as error:
        tells.send(error)
    except Exception:
        tells.send(traceback.format_exc())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _receive(worker: Worker) -> Any:
    """What the worker tells; None when it has ended, perhaps in the middle of a word."""
    try:
        return worker.told.recv()
    except (EOFError, OSError):
        return None


def _ended(worker: Worker, message: object) -> str | None:
    """How the worker died, None if its work was done. Raises what it failed with."""
    worker.process.join()
    worker.told.close()
    if isinstance(message, UserError):
        raise message
    if message is not None:
        raise RuntimeError(f"a process that paints on {worker.device} failed:\n{message}")
    code = worker.process.exitcode or 0
    if code == 0:
        return None
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _complain(end: str, deaths: int) -> None:
    if deaths >= MOST_DEATHS:
        raise UserError(
            f"{deaths} painting processes in a row died before they had finished a shard, the last was {end} (too"
            " little memory?): lower machine.generation_workers or generation.batch_size; finished shards are kept"
        )
    print(f"flexseg: a process that paints was {end}; another one takes over its shard", file=sys.stderr)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
