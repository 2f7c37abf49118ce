"""Work for painting processes that paints nothing: importable by the processes that tests start."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from generation.shards import Shard, claimed
from generation.workers import Work
from pipeline.errors import UserError


def write(shards: list[Shard], deaths: int, device: str) -> Iterator[int]:
    """Writes its process id into each shard, image by image. The first `deaths` processes kill themselves after an
    image of their second shard."""
    for written, shard in enumerate(shards):
        with claimed(shard) as mine:
            if not mine:
                continue
            for image in range(1, len(shard.requests)):
                yield image
                if written and len(list(shard.work.glob("death-*"))) < deaths:
                    (shard.work / f"death-{os.getpid()}").touch()
                    time.sleep(0.3)  # what it told must be read first, to be counted as lost
                    os.kill(os.getpid(), signal.SIGKILL)
            shard.path.write_text(str(os.getpid()))
            yield 0
    while not all(shard.done for shard in shards):
        time.sleep(0.05)


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


def forever(folder: Path, device: str) -> Iterator[int]:
    """Says that it is there and then says nothing."""
    (folder / str(os.getpid())).touch()
    yield 1
    time.sleep(600)


def writing(shards: list[Shard], deaths: int) -> Work:
    """`write` for `watch`."""
    return partial(write, shards, deaths)
