"""Units: the files that a stage's work is divided into, each made by whoever claims it first and kept once it is whole.

An executor makes units: processes of this machine (`pipeline.work.workers`), or a cluster. The stage does not know
which.
"""

import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.machine import Machine
from pipeline.files import fsync_folder
from pipeline.work.progress import Track

WORK = ".work"
"""Folder of locks and unfinished files inside a folder that units are made in."""
PATIENCE = 0.5  # s between looks at units that others make


class Unit(NamedTuple):
    """One file and what is to be in it."""

    path: Path
    """There only when it is whole."""
    work: Path
    """Folder of its lock, and of its file while that is being written: on the file system of `path`."""
    task: Any
    """What its maker needs to know; pickles."""
    items: int
    """Images in it, for the progress bar; at least 1."""

    @property
    def done(self) -> bool:
        """Whether the file is there, which it is only when it is whole."""
        return self.path.exists()


Make = Callable[[Any, Path], Iterator[object]]
"""make(task, path): writes the whole file of a task to `path`; one item per image. A unit's bytes must depend on its
task alone: batches end with it, and on the CPU it computes with one thread (`pipeline.work.threads.one_thread`)."""

Load = Callable[[str], Make]
"""load("cuda:1"): what makes units on that device, its models loaded. Sent to processes, so it must pickle: a
functools.partial of a module-level function."""

Executor = Callable[[Sequence[Unit], Load, Machine], Iterator[None]]
"""Makes units until all are done, by whomever; one None per image, those of units that were done before excluded."""


def make_all(
    units: Sequence[Unit], load: Load, *, machine: Machine, execute: Executor, progress: Track, description: str
) -> None:
    """Let an executor make all units, and show how far it is."""
    total, done = (sum(unit.items for unit in part) for part in (units, [unit for unit in units if unit.done]))
    if done == total:
        return
    for _ in progress(execute(units, load, machine), total=total, description=description, done=done):
        pass


def make_units(units: Sequence[Unit], load: Load, device: str) -> Iterator[int]:
    """Make units until every one is done, by this process or by others that work on the same folder.

    After each image it says how many images of the current unit would be lost now; 0 once the unit is whole.
    """
    make = load(device)
    while missing := [unit for unit in units if not unit.done]:
        waiting = True
        for unit in missing:
            with claimed(unit) as mine:
                if not mine:
                    continue
                waiting = False
                with writing(unit) as path:
                    for made, _ in enumerate(make(unit.task, path), start=1):
                        if made < unit.items:
                            yield made
                yield 0
        if not units[0].work.is_dir():  # another call has finished them all
            return
        if waiting:
            time.sleep(PATIENCE)


@contextmanager
def claimed(unit: Unit) -> Iterator[bool]:
    """Whether the unit is the caller's to make: not done, and nobody else's. The claim dies with its owner.

    It is an flock, which the kernel frees however a process ends; over NFS, Linux hands it to the server.
    """
    try:
        lock = (unit.work / f"{unit.path.name}.lock").open("a")
    except FileNotFoundError:  # another call has finished them all
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        lock.truncate(0)
        lock.write(f"{platform.node()} {os.getpid()}\n")  # for people who wonder who makes it
        lock.flush()
        for left in unit.work.glob(f"{unit.path.name}.*.partial"):  # by an owner who died
            left.unlink()
        yield not unit.done


@contextmanager
def writing(unit: Unit) -> Iterator[Path]:
    """Where to write the unit's file: it appears as `unit.path`, safely on the disk, when the block ends well."""
    path = unit.work / f"{unit.path.name}.{os.getpid()}.partial"
    yield path
    with path.open("rb") as file:
        os.fsync(file.fileno())
    unit.path.parent.mkdir(parents=True, exist_ok=True)
    path.rename(unit.path)
    fsync_folder(unit.path.parent)
