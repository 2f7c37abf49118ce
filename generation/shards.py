"""Shards: the parquet files of a data set, which are the units that its images are painted in."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from generation.crops import LabelReader
from pipeline.config.generation import GenerationConfig
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene
from pipeline.requests import GenerationRequest
from pipeline.work.threads import one_thread
from pipeline.work.units import WORK, Make, Unit
from pipeline.work.workers import worker_devices

LIBRARIES = ("generation.paint", "generation.samples")
"""Modules that every painting process imports, and with them torch, diffusers, transformers and datasets: slow."""


def split(requests: Sequence[GenerationRequest], size: int, folder: Path) -> list[Unit]:
    """The shards of a data set in `folder`, of `size` requests each, in order."""
    parts = [requests[start : start + size] for start in range(0, len(requests), size)]
    return [
        Unit(folder / "data" / f"train-{k:05d}-of-{len(parts):05d}.parquet", folder / WORK, part, len(part))
        for k, part in enumerate(parts)
    ]


def load_painter(config: GenerationConfig, scenes: Sequence[Scene], machine: Machine, device: str) -> Make:
    """Loads the generator; what comes back writes shards, one item per image. `scenes` hold the label maps."""
    from generation.samples import write_shard  # slow to import, as is what shard_painter needs

    make_samples = shard_painter(config, scenes, machine, device)

    def paint(requests: Sequence[GenerationRequest], path: Path) -> Iterator[None]:
        samples = []
        for sample in make_samples(requests):
            samples.append(sample)
            yield
        write_shard(samples, path)

    return paint


def shard_painter(
    config: GenerationConfig, scenes: Sequence[Scene], machine: Machine, device: str
) -> Callable[[Sequence[GenerationRequest]], Iterator[dict[str, Any]]]:
    """Loads the generator; what comes back turns the requests of one shard into rows of the data set.

    Batches never reach over a shard's end and the CPU computes with one thread, as sums differ in their last bits with
    the batch and the threads: so a shard's bytes depend neither on who paints it nor on what was painted before.
    """
    import torch  # slow to import, and the process that only watches workers does without

    from generation.models import load_networks
    from generation.paint import Painter
    from generation.samples import make_sample

    reader = LabelReader(scenes, config.label_height)
    painter = Painter(config, load_networks(config.weights, torch.device(device)), machine)

    def make_samples(requests: Sequence[GenerationRequest]) -> Iterator[dict[str, Any]]:
        with one_thread():
            for request, image, label in painter.paint(requests, reader):
                yield make_sample(request, image, label)

    return make_samples


def measure_seconds(
    config: GenerationConfig, requests: Sequence[GenerationRequest], scenes: Sequence[Scene], machine: Machine
) -> float:
    """Seconds in which one worker paints `requests`, without loading; on a GPU it paints them once before."""
    device = worker_devices(machine, 1)[0]
    make_samples = shard_painter(config, scenes, machine, device)
    if device != "cpu":
        list(make_samples(requests))
    start = time.perf_counter()
    list(make_samples(requests))
    return time.perf_counter() - start
