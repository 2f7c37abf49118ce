"""Units: the files that a stage's work is divided into, each made by whoever claims it first and kept once it is whole.

An executor makes units: processes of this machine (`pipeline.work.workers`), or a cluster. The stage does not know
which. A unit's sha256 is written down before its file appears, so that an interrupted stage continues with what was
written and nothing else: a file that was damaged meanwhile is made again.
"""

import fcntl
import glob
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.machine import Machine
from pipeline.errors import UserError
from pipeline.files import file_sha256, written_whole
from pipeline.work.progress import Track
from pipeline.work.threads import in_order

WORK = ".work"
"""Folder of locks, digests and unfinished files inside a folder that units are made in. The store removes it when the
artifact is finished, `pipeline.store.building.build_in`."""
PARTS = "parts"
"""Folder inside `WORK` of units that the stage makes its files from, as an evaluation does."""
DIGEST = ".sha256"
"""How the name of a file ends that holds a finished unit's digest."""
PATIENCE = 0.5  # s between looks at units that others make


class Unit(NamedTuple):
    """One file and what is to be in it."""

    path: Path
    """There only when it is whole."""
    work: Path
    """Folder of its lock, its digest, and of its file while that is being written: on the file system of `path`."""
    task: Any
    """What its maker needs to know; pickles."""
    items: int
    """Images in it, for the progress bar; at least 1."""

    @property
    def done(self) -> bool:
        """Whether the file was made, which it is only when it is whole. `make_all` sees to it that it still is."""
        return self.path.is_file() and self.digest.is_file()

    @property
    def digest(self) -> Path:
        """The file that holds the sha256 of the unit's file."""
        return self.work / f"{self.path.name}{DIGEST}"


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
    """Let an executor make all units, and show how far it is. Units of an earlier call are kept where their content is
    what was written."""
    for _ in in_order(_drop_if_damaged, units):
        pass
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
    """Whether the unit is the caller's to make: not done, and nobody else's. The claim dies with its owner."""
    with _locked(unit) as mine:
        if mine:
            for left in unit.work.glob(f"{glob.escape(unit.path.name)}.*.partial"):  # by an owner who died
                left.unlink()
        yield mine and not unit.done


@contextmanager
def writing(unit: Unit) -> Iterator[Path]:
    """Where to write the unit's file: it appears as `unit.path`, safely on the disk, when the block ends well."""
    unit.path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unit.work / f"{unit.path.name}.{os.getpid()}.partial"
    with written_whole(unit.path, unfinished=unfinished) as path:
        yield path
        # Before the file: one that appears without its digest would have to be made again.
        with written_whole(unit.digest) as digest:
            digest.write_text(file_sha256(path), encoding="ascii")


@contextmanager
def _locked(unit: Unit) -> Iterator[bool]:
    """Whether the unit's lock is the caller's; False too where another call has finished all units.

    It is an flock, which the kernel frees however a process ends; over NFS, Linux hands it to the server.
    """
    try:
        lock = (unit.work / f"{unit.path.name}.lock").open("a")
    except FileNotFoundError:
        yield False
        return
    except IsADirectoryError as error:
        raise UserError(f"{error.filename} is a folder, wanted a lock of flexseg's: delete it and run again") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        lock.truncate(0)
        lock.write(f"{platform.node()} {os.getpid()}\n")  # for people who wonder who makes it
        lock.flush()
        yield True


def _drop_if_damaged(unit: Unit) -> None:
    """Deletes what is in the place of the unit's file where it is not what was written: flipped, swapped, cut, a
    folder, or of flexseg 0.1, which wrote no digests."""
    if not os.path.lexists(unit.path) or _whole(unit):
        return
    with _locked(unit) as mine:
        # Looked at again, as the unit may have been another call's to make until now.
        if mine and os.path.lexists(unit.path) and not _whole(unit):
            print(f"flexseg: {unit.path} is not what was written, it is made again", file=sys.stderr)
            if unit.path.is_dir() and not unit.path.is_symlink():
                shutil.rmtree(unit.path)
            else:
                unit.path.unlink()


def _whole(unit: Unit) -> bool:
    try:
        return not unit.path.is_symlink() and unit.digest.read_text(encoding="ascii") == file_sha256(unit.path)
    except (OSError, ValueError):
        return False
