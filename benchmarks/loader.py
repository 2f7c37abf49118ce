"""Whether training is given its crops fast enough: images per second and core, and what a GPU would wait.

    .venv/bin/python -m benchmarks.loader [--images N] [--rounds N]

Crops for DAFormer (512 px of 1280x704) and HRDA (1024 px of 2560x1407) are cut from PNG files of GTA's size by

- the peers' way: mmseg's pipeline as DAFormer runs it, written plainly here. Image and label are read and resized,
  then a crop is drawn (cat_max_ratio 0.75), flipped, distorted and normalized, all on the CPU; a crop that shows too
  little of its rare class has everything read again, ten times at most.
- the same with each file read once and no colors, which we leave to the GPU: decoding, resizing and cropping alone.
- before: flexseg's loader until November 2026: image and label are read and resized whole, then a crop is drawn.
- now: `training.data.TrainingSet`; and the same with `machine.decoded_copies`, once the copies are there.

All take the same draws, in turns, in one process, and are measured by CPU time. Then a GPU is simulated by a sleep:
how long it waits for `training.data.batch_loader`, and for a loader that stops at the end of every block.
Writes results/loader.json and results/loader_waiting.json.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.loading_ways import NEVER, Before, Peers
from benchmarks.record import Row, record
from pipeline.config.experiment import load_config
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.labels import TRAIN_IDS
from pipeline.data.statistics import class_pixels
from pipeline.seeding import random_generator
from pipeline.toytown import render_source
from training.data import Batch, TrainingSet, batch_loader
from training.decoded import DecodedCopies
from training.draws import Draw, Drawer, DrawnBlocks, rare_classes
from training.pools import ScenePool, fitting

SHARED = Path(__file__).parents[2] / "shared" / "data"
SIZE = (1052, 1914)
FILES = 12

Way = Callable[[Draw], object]


def write_scenes(folder: Path, count: int) -> list[Scene]:
    """Photographs at GTA's size with as much noise as makes their PNG files as large as GTA's (2.3 MB on average), and
    label maps of GTA; toy town enlarged where the shared data is not there."""
    photographs = sorted((SHARED / "camvid_val" / "images").glob("*.png"))[::9]
    labels = sorted((SHARED / "gta_labels").glob("*.png"))
    scenes = []
    for index in range(count):
        rendering = render_source(0, index, (96, 192))
        picture = Image.open(photographs[index % len(photographs)]) if photographs else Image.fromarray(rendering.image)
        smooth = np.asarray(picture.convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC))
        noise = random_generator("noise", index).normal(0, 0.8, (*SIZE, 3))
        files = folder / f"{index}.png", folder / f"{index}_label.png"
        Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(files[0])
        label = Image.open(labels[index % len(labels)]) if labels else Image.fromarray(rendering.label)
        label.resize(SIZE[::-1], Image.Resampling.NEAREST).save(files[1])
        scenes.append(Scene(str(index), *files, TRAIN_IDS))
    return scenes


def measure_rate(scenes: list[Scene], copies: Path, *, images: int, rounds: int) -> list[Row]:
    """Images per second of one core, for each way, size and filter."""
    rows: list[Row] = []
    for preset in ("gta-dginstyle", "gta-hrda"):
        for how in ("released", "antialiased"):
            config = load_config(preset).training.of(Method(training={"source_filter": how}))
            draws = [draw for batch in _drawer(config, scenes).block(0, images // 2) for draw in batch]
            now = _training_set(scenes, config)
            ways: dict[str, Way] = {
                "peers": Peers(scenes, config, whole=True),
                "peers, read once, without colors": Peers(scenes, config, whole=False),
                "before": Before(scenes, config),
                "now": now.__getitem__,
                "now, decoded copies": _training_set(scenes, config, copies).__getitem__,
            }
            milliseconds = _in_turns(ways, draws, rounds)
            crop = f"{config.crop[1]} px of {'x'.join(map(str, fitting(SIZE, config.source_size or SIZE)[::-1]))}"
            for name, own in milliseconds.items():
                ratios = (
                    median(other / mine for other, mine in zip(milliseconds[base], own, strict=True))
                    for base in ("before", "peers")
                )
                over_before, over_peers = ratios
                rows.append(
                    {
                        "crop": crop,
                        "filter": how,
                        "way": name,
                        "images/s and core": 1000 / median(own),
                        "over before": over_before,
                        "over peers": over_peers,
                    }
                )
    return rows


def _in_turns(ways: dict[str, Way], draws: Sequence[Draw], rounds: int) -> dict[str, list[float]]:
    """CPU ms per image of each way in each round; the first round, in which copies are made, does not count."""
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            for draw in draws:
                way(draw)
            if turn:
                milliseconds[name].append(1000 * (time.process_time() - start) / len(draws))
    return milliseconds


def measure_waiting(scenes: list[Scene], copies: Path, *, steps: int) -> list[Row]:
    """How long a GPU waits that takes 1/rate s per batch: DAFormer's crops, released filter, two images a batch."""
    config = load_config("gta-dginstyle").training.of(Method(training={"iterations": steps, "block": 25}))
    rows: list[Row] = []
    for decoded in (False, True):
        samples = _training_set(scenes, config, copies if decoded else None)
        for workers, rate in ((2, 4), (2, 8), (4, 8)):
            for name, loading in (("stops at block ends", _stopping), ("ahead", _ahead)):
                waited, total = _waited(loading(samples, scenes, workers), 1 / rate)
                rows.append(
                    {
                        "loader": name,
                        "decoded copies": "yes" if decoded else "no",
                        "workers": workers,
                        "steps/s wanted": rate,
                        "steps/s": steps / total,
                        "waits, %": 100 * waited / total,
                    }
                )
    return rows


def _waited(batches: Iterable[Batch], step_s: float) -> tuple[float, float]:
    """Seconds that a consumer of `step_s` a batch waits, and that it takes in all, from the first batch on."""
    arrivals = iter(batches)
    next(arrivals)  # for which the workers start
    waited, start = 0.0, time.perf_counter()
    while True:
        time.sleep(step_s)
        asked = time.perf_counter()
        if next(arrivals, None) is None:
            return waited, asked - start
        waited += time.perf_counter() - asked


def _ahead(samples: TrainingSet, scenes: list[Scene], workers: int) -> Iterator[Batch]:
    """As `training.loop` does it."""
    config, blocks = samples.config, DrawnBlocks(_drawer(samples.config, scenes))
    blocks.draw(0)
    loader = batch_loader(samples, blocks.batches(0), workers=workers, block=config.block)
    for iteration, batch in enumerate(loader, start=1):
        yield batch
        if iteration % config.block == 0:
            blocks.learn([[1.0] * config.batch_size] * config.block)
            blocks.draw(iteration)


def _stopping(samples: TrainingSet, scenes: list[Scene], workers: int) -> Iterator[Batch]:
    """As it was: the next block is drawn when the last batch of this one was trained on."""
    config, drawer, block = samples.config, _drawer(samples.config, scenes), _Block()
    loader: DataLoader[Batch] = DataLoader(samples, batch_sampler=block, num_workers=workers, persistent_workers=True)
    for start in range(0, config.iterations, config.block):
        block.batches = drawer.block(start, min(config.block, config.iterations - start))
        yield from loader


class _Block:
    """Batches that are set anew for every block."""

    def __init__(self) -> None:
        self.batches: list[list[Draw]] = []

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)


def _training_set(scenes: list[Scene], config: TrainingConfig, copies: Path | None = None) -> TrainingSet:
    decoded = None if copies is None else DecodedCopies(copies)
    return TrainingSet([ScenePool.of(scenes * NEVER, config, decoded)], config, 0)


def _drawer(config: TrainingConfig, scenes: list[Scene]) -> Drawer:
    return Drawer(config, Method(), 0, [len(scenes)], rare_classes(config, class_pixels(scenes)))


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="draws per way and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150, help="of the simulated GPU")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scenes = write_scenes(Path(folder), FILES)
        megabytes = median(scene.image.stat().st_size for scene in scenes if scene.image) / 1e6
        files = f"PNG files of {SIZE[1]}x{SIZE[0]} px, {megabytes:.1f} MB, in memory"
        packages = ("pillow", "numpy", "opencv-python-headless")
        rows = measure_rate(scenes, Path(folder) / "copies", images=options.images, rounds=options.rounds)
        title = f"Crops that one core gives, from {files}; aim: 3 times as many; load average {os.getloadavg()[0]:.1f}"
        record("loader", title, rows, packages)
        rows = measure_waiting(scenes, Path(folder) / "copies", steps=options.steps)
        title = f"What a GPU, simulated by a sleep, waits for crops of 512 px from {files}; two source images a batch"
        record("loader_waiting", f"{title}; load average {os.getloadavg()[0]:.1f}", rows, packages)


if __name__ == "__main__":
    main()
