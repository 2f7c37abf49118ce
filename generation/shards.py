"""Shards: the parquet files of a data set, each painted by whoever claims it first and kept once it is whole."""

import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from generation.crops import LabelReader
from pipeline.config.generation import GenerationConfig
from pipeline.datasets import Scene
from pipeline.records import GenerationRequest

WORK = ".work"
"""Folder of locks and unfinished files inside a data set that is being made."""
PATIENCE = 0.5  # s between looks at shards that others paint


class Shard(NamedTuple):
    """One parquet file and what is to be in it."""

    path: Path
    requests: Sequence[GenerationRequest]

    @property
    def done(self) -> bool:
        """Whether the file is there, which it is only when it is whole."""
        return self.path.exists()

    @property
    def work(self) -> Path:
        """Where its lock is, and its file while that is being written."""
        return self.path.parents[1] / WORK


def split(requests: Sequence[GenerationRequest], size: int, folder: Path) -> list[Shard]:
    """The shards of a data set in `folder`, of `size` requests each, in order."""
    parts = [requests[start : start + size] for start in range(0, len(requests), size)]
    return [Shard(folder / "data" / f"train-{k:05d}-of-{len(parts):05d}.parquet", part) for k, part in enumerate(parts)]


@contextmanager
def claimed(shard: Shard) -> Iterator[bool]:
    """Whether the shard is the caller's to paint: not done, and nobody else's. The claim dies with its owner.

    It is an flock, which the kernel frees however a process ends; over NFS, Linux hands it to the server.
    """
    try:
        lock = (shard.work / f"{shard.path.name}.lock").open("a")
    except FileNotFoundError:  # another call has finished the data set
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        lock.truncate(0)
        lock.write(f"{platform.node()} {os.getpid()}\n")  # for people who wonder who paints it
        lock.flush()
        for left in shard.work.glob(f"{shard.path.name}.*.partial"):  # by an owner who died
            left.unlink()
        yield not shard.done


def paint_shards(
    shards: Sequence[Shard], config: GenerationConfig, scenes: Sequence[Scene], device: str
) -> Iterator[int]:
    """Paint shards until every one is done, by this process or by others that work on the same folder.

    After each image it says how many images of the current shard would be lost now; 0 once the shard is whole.
    """
    from generation.samples import write_shard

    make_samples = shard_painter(config, scenes, device)
    while missing := [shard for shard in shards if not shard.done]:
        waiting = True
        for shard in missing:
            with claimed(shard) as mine:
                if not mine:
                    continue
                waiting = False
                samples = []
                for sample in make_samples(shard.requests):
                    samples.append(sample)
                    if len(samples) < len(shard.requests):
                        yield len(samples)
                write_shard(samples, shard.path, shard.work)
                yield 0
        if not shards[0].work.is_dir():  # another call has finished the data set
            return
        if waiting:
            time.sleep(PATIENCE)


def shard_painter(
    config: GenerationConfig, scenes: Sequence[Scene], device: str
) -> Callable[[Sequence[GenerationRequest]], Iterator[dict[str, Any]]]:
    """Loads the generator; what comes back turns the requests of one shard into rows of the data set.

    Batches never reach over a shard's end and the CPU computes with one thread, as sums differ in their last bits with
    the batch and the threads: so a shard's bytes depend neither on who paints it nor on what was painted before.
    """
    import torch  # slow to import, and the process that only watches workers does without

    from generation.alignment import alignment, edge_detector
    from generation.models import load_generator
    from generation.paint import Painter
    from generation.samples import make_sample

    edges = edge_detector(config, device)  # first: its weights may be missing
    reader = LabelReader(scenes, config.label_height)
    painter = Painter(config, load_generator(config.weights, torch.device(device)))

    def make_samples(requests: Sequence[GenerationRequest]) -> Iterator[dict[str, Any]]:
        with one_thread():
            for request, image, label in painter.paint(requests, reader):
                score = alignment(edges(image), label, config.alignment_radius)
                yield make_sample(request, image, label, score)

    return make_samples


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute with one thread on the CPU."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
