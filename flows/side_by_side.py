"""Trainings side by side, for machines and clusters with more GPUs than one training takes.

A row of the report (train by one method from one seed, then score) is given a slot: as many GPUs as `machine.processes`
says. Its stages run in processes of their own that see these GPUs alone, so that nothing that one row does to a device
or to its process reaches another one. Rows begin as slots become free, and a model is scored while others still train.
On a Ray cluster these processes only drive: each asks the cluster for what a slot stands for.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

from flows.executors import trainings_at_once
from pipeline.config.machine import Machine
from pipeline.work.board import board
from pipeline.work.devices import loader_workers
from pipeline.work.progress import OnProgress

R = TypeVar("R")


class Slot(NamedTuple):
    """The GPUs of one row, as `CUDA_VISIBLE_DEVICES` names them; none on a Ray cluster, which chooses them itself."""

    devices: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process see these alone."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.devices)} if self.devices else {}


class Place(NamedTuple):
    """Where the stages of a row are made, how many rows share the machine's cores, and who hears how far they are."""

    environment: Mapping[str, str]
    sharing: int
    tell: OnProgress

    def machine(self, whole: Machine) -> Machine:
        """What of a machine a row's stages may use: a worker per GPU, and a share of the cores to read images."""
        together = whole.model_copy(update={"processes": whole.processes * self.sharing})
        loaders = loader_workers(together) if self.sharing > 1 else whole.loader_workers
        return whole.model_copy(update={"workers": whole.processes, "loader_workers": loaders})


PLACE: ContextVar[Place | None] = ContextVar("PLACE", default=None)
"""The place of the row that this thread is about; None for stages that may use the whole machine."""


def slots(machine: Machine) -> list[Slot]:
    """This machine's GPUs, or what the Ray cluster has (GPUs, else cores), in groups of `machine.processes`, without a
    rest that is too small; none where rows are made in turn: on this machine's CPU, of which one training uses all
    cores, and under torchrun."""
    if "RANK" in os.environ:
        return []
    if machine.executor == "ray":
        return [Slot()] * trainings_at_once(machine)
    if machine.device == "cpu":
        return []
    import torch  # slow to import

    size, count = machine.processes, torch.cuda.device_count()
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = (names or [str(k) for k in range(count)])[:count]  # torch sees none behind a name that is no GPU
    return [Slot(tuple(names[k : k + size])) for k in range(0, len(names) - size + 1, size)]


class NotBegunError(Exception):
    """A row that was not begun, because another one had failed."""


def rows_side_by_side(rows: Mapping[str, Callable[[], R]], given: Sequence[Slot]) -> list[R]:
    """What the named rows return, in their order: one per slot at a time; in turn where there is one slot or none.

    When one fails, those that have begun go on to their end, which is kept; no other begins, and its error is raised.
    An interrupt is raised at once in the main thread; the stages of the others end by `pipeline.work.interrupts`.
    """
    if len(given) < 2 or len(rows) < 2:
        return [row() for row in rows.values()]
    free: SimpleQueue[Slot] = SimpleQueue()
    for slot in given:
        free.put(slot)
    with board() as shown, ThreadPoolExecutor(len(given)) as pool:
        ends, sharing = threading.Event(), min(len(given), len(rows))

        def in_slot(name: str, row: Callable[[], R]) -> R:
            if ends.is_set():
                raise NotBegunError(name)
            slot = free.get()  # there is one: no more threads than slots
            PLACE.set(Place(slot.environment, sharing if slot.devices else 1, shown.named(name)))
            try:
                return row()
            except BaseException:
                ends.set()  # here: this thread takes the next row before another one learns of the error
                raise
            finally:
                free.put(slot)

        # Each in a copy of the context, by which Prefect knows which flow a task belongs to.
        begun: list[Future[R]] = [pool.submit(copy_context().run, in_slot, name, row) for name, row in rows.items()]
        try:
            wait(begun, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C, or what a signal's handler raises
            ends.set()
            raise
    errors = [error for future in begun if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, NotBegunError):
            raise error
    return [future.result() for future in begun]
