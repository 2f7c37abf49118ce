"""Work for processes that takes no torch: importable by the processes that tests start."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError
from pipeline.work.units import WORK, Make, Unit, writing


def units_in(folder: Path, count: int = 8, items: int = 3) -> list[Unit]:
    """Units of `items` images each, in a folder that is ready for work. Their task is the number of images."""
    (folder / WORK).mkdir(parents=True)
    return [Unit(folder / "files" / f"{k}.txt", folder / WORK, items, items) for k in range(count)]


def make_empty(unit: Unit) -> None:
    """Makes the unit, as an earlier call may have done."""
    with writing(unit) as path:
        path.touch()


def load_writer(deaths: int, device: str) -> Make:
    """What writes its process id into each file. The first `deaths` processes kill themselves after an image of their
    second file."""
    written = 0

    def write(images: int, path: Path) -> Iterator[None]:
        nonlocal written
        for _ in range(images):
            yield
            if written and len(list(path.parent.glob("death-*"))) < deaths:
                (path.parent / f"death-{os.getpid()}").touch()
                time.sleep(0.3)  # what it told must be read first, to be counted as lost
                os.kill(os.getpid(), signal.SIGKILL)
        path.write_text(str(os.getpid()))
        written += 1

    return write


def tell_of_itself(folder: Path, device: str) -> Iterator[int]:
    """Writes its parent's id and the FLEXSEG_TOLD of its environment into a file named by its own id."""
    (folder / str(os.getpid())).write_text(f"{os.getppid()} {os.environ.get('FLEXSEG_TOLD')}")
    yield 0


def start_painting(weights: Path, folder: Path, device: str) -> Iterator[int]:
    """Writes down how many seconds of CPU it took until it could paint."""
    from generation.shards import load_painter
    from pipeline.config.generation import GenerationConfig
    from pipeline.config.machine import Machine

    load_painter(GenerationConfig(weights=str(weights)), [], Machine(device="cpu"), device)
    (folder / str(os.getpid())).write_text(str(time.process_time()))
    yield 0


def die(device: str) -> Iterator[int]:
    """Never finishes anything."""
    yield 1
    os.kill(os.getpid(), signal.SIGKILL)


def mistake(device: str) -> Iterator[int]:
    """Finds a mistake of the user."""
    yield 1
    raise UserError("labels/1.png: cannot be read")


def defect(device: str) -> Iterator[int]:
    """Finds a mistake of ours."""
    yield 1
    raise ValueError("it is our fault")


class OutOfMemoryError(RuntimeError):
    """As torch's own, which takes seconds to import."""

    __module__ = "torch"


def full_gpu(device: str) -> Iterator[int]:
    """Finds the GPU's memory full."""
    yield 1
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has a total capacity of 1 GiB")


def forever(folder: Path, device: str) -> Iterator[int]:
    """Says that it is there and then says nothing."""
    (folder / str(os.getpid())).touch()
    yield 1
    time.sleep(600)
