"""How long many workers take for many shards: a simulation, and the same with real processes that sleep.

Imports nothing large, so that the processes start quickly.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import NamedTuple

from pipeline.config.machine import Machine
from pipeline.seeding import random_generator
from pipeline.work import workers
from pipeline.work.units import WORK, Make, Unit


@dataclass(frozen=True)
class Rates:
    """What one worker needs, in seconds, and how often it is lost."""

    images_per_s: float
    start: float = 0.0
    """From nothing to loaded models."""
    shard: float = 0.0
    """Beside its images, by the worker: its file made safe."""
    look: float = 0.0
    """To see that a shard is somebody else's. Every worker looks at every shard."""
    handing: float = 0.0
    """By a scheduler that hands out one shard after another."""
    deaths_per_h: float = 0.0
    replaced: float = 300.0
    """Until a lost worker's machine has a successor."""


class Outcome(NamedTuple):
    """How a data set was painted: its time, and where the workers' time went as shares that sum to 1."""

    seconds: float
    painting: float
    starting: float
    shards: float
    """Looking for shards, waiting for the scheduler, writing files."""
    lost: float
    """Painting what died with a worker, and waiting for the successor."""
    idle: float
    """Waiting for the others at the end."""


def simulate(images: int, count: int, size: int, rates: Rates, *, seed: int = 0) -> Outcome:
    """`count` workers paint `images` in shards of `size`, each takes the next one when it is done.

    A worker lives for an exponentially distributed time; the shard that it had in hand goes to the next free worker.
    """
    random = random_generator("scaling", seed)
    shards = [min(size, images - k) for k in range(0, images, size)][::-1]
    life = 3600 / rates.deaths_per_h if rates.deaths_per_h else math.inf
    free = [(rates.start, k, random.exponential(life) if math.isfinite(life) else math.inf) for k in range(count)]
    heapify(free)
    spent = dict.fromkeys(("starting", "shards", "lost"), 0.0) | {"starting": count * rates.start}
    extra = rates.shard + count * rates.look
    scheduler = end = 0.0
    while shards:
        now, worker, dies = heappop(free)
        scheduler = max(scheduler, now) + rates.handing
        done = scheduler + extra + shards[-1] / rates.images_per_s
        if dies < done:
            back = max(now, dies) + rates.replaced
            spent["lost"] += back - now
            spent["starting"] += rates.start
            heappush(free, (back + rates.start, worker, back + random.exponential(life)))
            continue
        spent["shards"] += scheduler - now + extra
        shards.pop()
        end = max(end, done)
        heappush(free, (done, worker, dies))
    total = count * end
    shares = {name: value / total for name, value in spent.items()} | {"painting": images / rates.images_per_s / total}
    return Outcome(end, **shares, idle=max(0.0, 1 - sum(shares.values())))


def units_in(folder: Path, count: int, items: int = 1) -> list[Unit]:
    """Units of `items` images in a new folder."""
    (folder / WORK).mkdir(parents=True)
    return [Unit(folder / "data" / f"{k:06d}", folder / WORK, items, items) for k in range(count)]


def load_sleeper(image: float, folder: Path, count: int, device: str) -> Make:
    """What sleeps for each image and writes when it began and ended (s since the epoch). `count` workers begin at once:
    each tells in `folder` that it is there and waits for the others."""
    (folder / f"ready-{os.getpid()}").touch()
    while len(list(folder.glob("ready-*"))) < count:
        time.sleep(0.01)

    def make(images: int, path: Path) -> Iterator[None]:
        began = time.time()
        for _ in range(images):
            time.sleep(image)
            yield
        path.write_text(json.dumps([began, time.time()]))

    return make


def compare_with_reality(count: int = 3, shards: int = 20, items: int = 5, image: float = 0.1) -> tuple[float, float]:
    """(simulated, real) seconds that processes take for units of sleep, without their start."""
    with tempfile.TemporaryDirectory() as place:
        units = units_in(Path(place) / "units", shards, items)
        list(workers.run(units, partial(load_sleeper, image, Path(place), count), Machine(device="cpu", workers=count)))
        times = [json.loads(unit.path.read_text()) for unit in units]
    real = max(end for _, end in times) - min(began for began, _ in times)
    return simulate(shards * items, count, items, Rates(1 / image)).seconds, real
