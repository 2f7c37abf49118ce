"""Several processes on one machine train one segmenter: started here, or by torchrun or accelerate launch."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from pipeline.errors import TryAgainError, UserError, one_line
from pipeline.work.devices import out_of_memory
from training.processes import started_processes

TIMEOUT = timedelta(days=1)
"""For a rank that waits for the others. A dead rank is noticed at once, as its connection breaks."""
LOST_NEIGHBOR = ("Connection closed by peer", "Connection reset by peer", "DistNetworkError")
"""What torch says in a rank whose neighbor has died."""
GRACE_S = 5.0
"""What the other ranks get, twice, to end by themselves when one has failed."""

Stop = Callable[[], bool]
"""Tells a rank whether the process that started it wants it to stop."""


class _World(NamedTuple):
    """The processes that train together, and the file through which they find each other."""

    size: int
    device: str
    store: str


def never() -> bool:
    """The `Stop` of a rank that nobody but its own signals stops."""
    return False


def run_on_ranks(count: int, device: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Calls `work(*arguments, stop)` in `count` new processes that form a process group, and waits for them.

    An interrupt makes `stop` true, waits until all ranks have come to an end by it, and then propagates; a second one
    ends them at once. UserError: that of a rank, of its own kind; TryAgainError: a rank that was ended from outside.
    `work` must be importable.
    """
    spawn = multiprocessing.get_context("spawn")
    stop, errors = spawn.Event(), spawn.SimpleQueue()
    with tempfile.TemporaryDirectory() as place:
        with _interrupts_ignored():  # Ctrl-C reaches the whole terminal: the new processes leave it to this one
            shared = (_World(count, device, f"file://{place}/store"), stop, errors, work, arguments)
            context = start_processes(_on_rank, shared, nprocs=count, join=False)
        assert context is not None
        try:
            while not context.join(grace_period=GRACE_S):
                pass
        except (ProcessExitedException, ProcessRaisedException) as error:
            if not errors.empty():
                raise errors.get() from None
            # A rank may notice its dead neighbor before the dead one itself is noticed here.
            if isinstance(error, ProcessExitedException) or any(words in str(error) for words in LOST_NEIGHBOR):
                raise TryAgainError(
                    f"a training process was ended from outside ({one_line(error, 160)}), perhaps for want of memory;"
                    " the last checkpoint is kept: the same command continues from it"
                ) from None
            raise
        except BaseException:  # Ctrl-C, or what a signal's handler raises
            stop.set()
            for process in context.processes:
                process.join()
            raise
        finally:
            _end(context.processes)


@contextmanager
def leading() -> Iterator[bool]:
    """Joins the processes that torchrun or accelerate launch started. Gives True to the one that does the work, rank 0;
    the others help it, within this context, with every `share` of it, and then get False."""
    if started_processes() == 1:
        yield True
        return
    distributed.init_process_group(backend("cuda" if torch.cuda.is_available() else "cpu"), timeout=TIMEOUT)
    if distributed.get_rank() > 0:
        while (job := _broadcast(None)) is not None:
            work, arguments = job
            try:
                work(*arguments, never)
            except (KeyboardInterrupt, UserError):
                sys.exit(1)  # rank 0 has the same to say
        yield False
    else:
        ended = False
        try:
            yield True
            ended = True
        except SystemExit as end:
            ended = not end.code
            raise
        finally:
            if ended:
                _broadcast(None)
    distributed.destroy_process_group()


def share(work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Calls `work(*arguments, never)` here and on every helper of `leading`."""
    _broadcast((work, arguments))
    work(*arguments, never)


def _broadcast(job: Any) -> Any:
    box = [job]
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _on_rank(rank: int, world: _World, stop: Any, errors: Any, work: Callable[..., None], arguments: Any) -> None:
    """What one of `run_on_ranks`' processes does."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world.size, "LOCAL_WORLD_SIZE": world.size}
    os.environ.update({name: str(value) for name, value in names.items()})  # where Accelerate looks for them
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // world.size))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    distributed.init_process_group(backend(world.device), world.store, TIMEOUT, world.size, rank)
    parent = multiprocessing.parent_process()
    assert parent is not None
    try:
        work(*arguments, lambda: stop.is_set() or not parent.is_alive())
    except Exception as error:
        told = error if isinstance(error, UserError) else out_of_memory(error)
        if told is not None:
            errors.put(told)
        raise
    distributed.destroy_process_group()


def backend(device: str) -> str:
    """Tensors on a GPU go by NCCL, all others by gloo."""
    return "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"


def _end(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """New processes inherit it. Outside the main thread signals cannot be set, nor do they arrive there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
