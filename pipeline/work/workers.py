"""Processes of this machine that make units side by side. Any of them may die at any moment.

Without a GPU they are forked from one process that has imported the libraries which they need: many pay for it once,
and one that takes over from the dead begins at once. On a GPU each is started anew: CUDA survives no fork, and a
library may have touched it while it was imported.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.config.machine import Machine
from pipeline.errors import TryAgainError, UserError
from pipeline.work import interrupts
from pipeline.work.devices import device_of, out_of_memory
from pipeline.work.units import Load, Unit, make_units

Work = Callable[[str], Iterator[int]]
"""Works on a device; after each image, how many would be lost now. Sent to processes, so it must pickle."""

MOST_ON_CPU = 4  # `auto` on a large machine: every worker holds the networks in memory
MOST_DEATHS = 3  # in a row, without a unit being finished


@dataclass
class LocalWorker:
    """A process of this machine, what it tells (ends when it does), and how many images are lost if it dies now."""

    process: BaseProcess
    told: Connection
    device: str
    unsaved: int = 0


def run(
    units: Sequence[Unit],
    load: Load,
    machine: Machine,
    *,
    most_on_cpu: int = MOST_ON_CPU,
    preload: Sequence[str] = (),
) -> Iterator[None]:
    """Make the units that are missing: an `Executor`. In this process where one is enough, else in one per device.

    `most_on_cpu`: processes that `machine.workers: auto` starts at most without a GPU. `preload`: see `watch`.
    """
    missing = [unit for unit in units if not unit.done]
    devices = worker_devices(machine, len(missing), most_on_cpu)
    if len(devices) <= 1:
        images: Iterator[object] = make_units(missing, load, devices[0]) if devices else iter(())
    else:
        images = watch(partial(make_units, missing, load), devices, preload)
    left = sum(unit.items for unit in missing)
    for _ in images:
        left -= 1
        yield
    yield from [None] * left  # made by other calls


def worker_devices(machine: Machine, units: int, most_on_cpu: int = MOST_ON_CPU) -> list[str]:
    """The device of each worker, never more workers than units. Raises UserError where there is no such device."""
    wanted = machine.workers
    gpus = 0
    if machine.device != "cpu":
        import torch  # slow to import

        gpus = torch.cuda.device_count() if device_of(machine).type == "cuda" else 0
    if gpus == 0:
        return ["cpu"] * min(units, min(_cores(), most_on_cpu) if wanted == "auto" else wanted)
    return [f"cuda:{k % gpus}" for k in range(min(units, gpus if wanted == "auto" else wanted))]


def watch(work: Work, devices: Sequence[str], preload: Sequence[str] = ()) -> Iterator[None]:
    """Run `work` in one process per device until all are done; one item per image. A process that dies is replaced.

    `preload`: modules that take long to import and that `work` needs. All processes on the CPU share them; those of the
    first call that starts any stay the shared ones, and in memory (painting's: 0.6 GB), while this process lives.
    Threads that importing them starts must survive a fork, as OpenBLAS' (numpy, scipy) and jemalloc's (pyarrow) do.

    Raises the UserError of a process, or a TryAgainError when they keep dying.
    """
    multiprocessing.set_forkserver_preload(list(preload))
    workers: list[LocalWorker] = []
    # Images of an unfinished file are lost with its worker. They were counted, so whoever makes them again, which may
    # be any worker, is not: `remade` is how many images to come were counted before. `deaths` starts anew with each
    # finished file, since a file that kills whoever works on it is never finished.
    deaths, remade = 0, 0
    try:
        for device in devices:
            workers.append(_start(work, device))
        while workers:
            interrupts.raise_if_came()
            ready = wait([worker.told for worker in workers])
            for worker in [worker for worker in workers if worker.told in ready]:
                message = _receive(worker)
                if isinstance(message, int):
                    worker.unsaved = message
                    deaths = 0 if message == 0 else deaths
                    remade -= 1
                    if remade < 0:  # none is left: this one was not counted before
                        remade = 0
                        yield
                    continue
                workers.remove(worker)
                if end := _ended(worker, message):
                    deaths += 1
                    remade += worker.unsaved
                    _complain(end, deaths)
                    workers.append(_start(work, worker.device))
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _start(work: Work, device: str) -> LocalWorker:
    """Start a worker that Ctrl-C does not reach: whoever watches it ends it."""
    get_context, forked = multiprocessing.get_context, device == "cpu"
    context: ForkServerContext | SpawnContext = get_context("forkserver") if forked else get_context("spawn")
    told, tells = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, device, tells, dict(os.environ)), daemon=True)
    resource_tracker.ensure_running()  # before the signal is blocked: its own start unblocks it in Python 3.11
    try:
        with _sigint_blocked():  # which whatever is started inherits
            if forked:
                forkserver.ensure_running()
            else:
                process.start()
        if forked:
            process.start()  # ends when the server has imported its modules, so it may be interrupted
    finally:
        tells.close()  # so that `told` ends with the process
    return LocalWorker(process, told, device)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(work: Work, device: str, tells: Connection, environment: Mapping[str, str]) -> None:
    """What a worker does: make, and tell after each image; at last perhaps a UserError or a traceback."""
    os.environ.update(environment)  # a fork server has that of its own start
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for unsaved in work(device):
            tells.send(unsaved)
    except UserError as error:
        tells.send(error)
    except Exception as error:
        tells.send(out_of_memory(error) or traceback.format_exc())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _receive(worker: LocalWorker) -> Any:
    """What the worker tells; None when it has ended, perhaps in the middle of a word."""
    try:
        return worker.told.recv()
    except (EOFError, OSError):
        return None


def _ended(worker: LocalWorker, message: object) -> str | None:
    """How the worker died, None if its work was done. Raises what it failed with."""
    worker.process.join()
    worker.told.close()
    if isinstance(message, UserError):
        raise message
    if message is not None:
        raise RuntimeError(f"a worker process on {worker.device} failed:\n{message}")
    code = worker.process.exitcode or 0
    if code == 0:
        return None
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _complain(end: str, deaths: int) -> None:
    if deaths >= MOST_DEATHS:
        raise TryAgainError(
            f"{deaths} worker processes in a row died before they had finished a file, the last was {end} (too little"
            " memory?): lower machine.workers, or generation.batch_size or machine.evaluation_batch; finished files are"
            " kept"
        )
    print(f"flexseg: a worker process was {end}; another one takes over its file", file=sys.stderr)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
