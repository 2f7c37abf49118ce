"""What a training looks at: shares of the classes that its crops are drawn for, and crops without a px of theirs.

    .venv/bin/python -m benchmarks.draws [--draws 40000] [--maps 1500]

Writes results/draws.json. The gta presets' samplers draw from made label maps at an eighth of GTA's size, beside the
released rules in plain loops (`released_draws.py`). No network is trained: an image's loss is a made number.
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random
from typing import Any, NamedTuple

import numpy as np

from benchmarks import released_draws
from benchmarks.record import Row, record
from benchmarks.released_draws import Request, Rules, Shown
from pipeline.config.experiment import load_config
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.labels import CLASS_NAMES, IGNORE
from pipeline.data.resizing import cut, resized_label
from pipeline.requests import Box
from pipeline.seeding import random_generator
from training.data import TrainingSet
from training.draws import Drawer, rare_classes, source_pairs
from training.pools import ImagePool, fitting

PRESETS = {"DAFormer": "gta-dginstyle", "HRDA": "gta-hrda"}
FULL_SIZE = (132, 239)
"""An eighth of GTA's images, px; all that is counted in px is a sixty-fourth."""
THINGS = {  # class: (share of the maps that have some, how many at most, height and width in px)
    3: (0.4, 1, 9, 40), 4: (0.3, 2, 5, 30), 5: (0.95, 6, 28, 1), 6: (0.5, 3, 4, 3), 7: (0.4, 3, 5, 5),
    9: (0.3, 1, 12, 60), 11: (0.6, 5, 9, 4), 12: (0.06, 1, 10, 6), 13: (0.9, 4, 13, 22), 14: (0.25, 1, 22, 22),
    15: (0.08, 1, 22, 36), 16: (0.02, 1, 24, 70), 17: (0.07, 1, 9, 11), 18: (0.03, 1, 8, 10),
}  # fmt: skip


class Town(NamedTuple):
    """Made label maps: px per class in their files (N,19), the maps at the size that is trained on, a loss each."""

    pixels: np.ndarray
    labels: Sequence[np.ndarray]
    losses: Sequence[float]


class Chosen(ImagePool):
    """The maps of a town that a pool has, in its order; some may be there twice. Their images are black."""

    def __init__(self, town: Town, images: Sequence[int]) -> None:
        self.town, self.images = town, images

    def __len__(self) -> int:
        return len(self.images)

    def label(self, index: int) -> np.ndarray:
        return self.town.labels[self.images[index]]

    def image(self, index: int, box: Box) -> np.ndarray:
        return np.zeros((box.height, box.width, 3), np.uint8)


def make_town(maps: int, config: TrainingConfig) -> Town:
    """Streets with things of GTA's classes, some of them rare; images with much of rare things have a high loss."""
    files = [_street(random_generator("made street", number)) for number in range(maps)]
    pixels = np.stack([np.bincount(label.ravel(), minlength=256)[:19] for label in files])
    assert config.source_size is not None
    size = fitting(FULL_SIZE, config.source_size)
    labels = [resized_label(label, size, config.source_filter) for label in files]
    rare = pixels[:, list(THINGS)].sum(axis=1) / pixels.sum(axis=1)
    noise = random_generator("made losses").random(maps)
    return Town(pixels, labels, (0.2 + 3 * rare + 0.3 * noise).tolist())


def _street(rng: np.random.Generator) -> np.ndarray:
    label = np.full(FULL_SIZE, 2, np.uint8)
    horizon = int(rng.integers(40, 65))
    label[: int(rng.integers(5, horizon))] = 10
    label[horizon - int(rng.integers(0, 25)) : horizon, int(rng.integers(0, 120)) :][
        :, : int(rng.integers(30, 120))
    ] = 8
    label[horizon + int(rng.integers(5, 20)) :] = 1
    label[horizon + 20 :, int(rng.integers(0, 40)) : int(rng.integers(180, 239))] = 0
    for class_id, (share, most, height, width) in THINGS.items():
        for _ in range(int(rng.integers(1, most + 1)) if rng.random() < share else 0):
            scale = float(rng.uniform(0.4, 1.6))
            rows, columns = (max(1, round(side * scale)) for side in (height, width))
            top = int(np.clip(horizon + rng.integers(-20, 30) - rows // 2, 0, FULL_SIZE[0] - rows))
            left = int(rng.integers(0, max(1, FULL_SIZE[1] - columns)))
            label[top : top + rows, left : left + columns] = class_id
    label[:, : int(rng.integers(0, 6))] = IGNORE
    return label


def eighth(preset: str, draws: int, maps: int) -> TrainingConfig:
    """A gta preset's training section with an eighth of its sides, and pairs in the same proportion to the maps."""
    config = load_config(preset).training
    assert config.source_size is not None
    pool = config.source_pool and config.source_pool.model_copy(update={"pairs": round(maps * 6000 / 24_966)})
    network = config.network.model_copy(update={"hrda": None})
    sizes = {"source_size": tuple(side // 8 for side in config.source_size), "crop": (config.crop[0] // 8,) * 2}
    counts = {name: getattr(config, name) // 64 for name in ("rare_class_pixels", "rare_class_crop")}
    changes: dict[str, Any] = {
        "source_pool": pool,
        "network": network,
        "iterations": draws // config.batch_size,
        "methods": {},
    }
    return TrainingConfig.model_validate({**config.model_dump(), **changes, **sizes, **counts})


def simulated(town: Town, config: TrainingConfig, *, has: bool) -> list[Shown]:
    """The source draws of one training by our sampler: FLEX-Seg's, with or without hardness."""
    rare = rare_classes(config, town.pixels)
    pairs = source_pairs(config, rare)
    pool = Chosen(town, range(len(town.labels)) if pairs is None else [image for image, _ in pairs])
    classes = None if pairs is None else [wanted for _, wanted in pairs]
    method = Method(generated=True, has=has)
    drawer = Drawer(config, method, 0, [len(pool), generated_images(town)], rare, classes=classes)
    samples, shown = TrainingSet([pool], config, 0), []
    for start in range(0, config.iterations, config.block):
        for batch in drawer.block(start, min(config.block, config.iterations - start)):
            source = [draw for draw in batch if draw.pool == 0]
            drawer.learn(source, [town.losses[pool.images[draw.image]] for draw in source])
            for draw in source:
                label, rng = pool.label(draw.image), random_generator("crop", draw.iteration, draw.position)
                crop = cut(label, samples.crop_box(label, draw.wanted_class, rng))
                shown.append(Shown(draw.wanted_class, int(np.count_nonzero(crop == draw.wanted_class))))
    return shown


def by_loops(
    town: Town, config: TrainingConfig, *, has: bool, pairs: Sequence[tuple[int, int]] | None = None
) -> list[Shown]:
    """The same by the rules in plain loops; pairs: the pool that was chosen beforehand, else by the loops too."""
    draws = config.iterations * config.batch_size
    few, enough = config.rare_class_pixels, config.rare_class_crop
    rules, random = Rules(config.crop, few, enough, config.crop_class_share, draws), Random(0)
    pool = None
    if config.source_pool is not None:
        pool = released_draws.chosen_beforehand(town.pixels, rules, config.source_pool.pairs, random)
    if pairs is not None:
        pool = [Request(*pair) for pair in pairs]
    given = (town.labels, town.pixels, rules, generated_images(town), pool, random)
    if not has:
        return released_draws.plain_training(*given)
    return released_draws.hard_training(*given, losses=town.losses, block=config.block * config.batch_size)


def generated_images(town: Town) -> int:
    """7,000 for the 24,966 images of GTA."""
    return round(len(town.labels) * 7000 / 24_966)


def class_shares(shown: Sequence[Shown]) -> np.ndarray:
    """(19,): which share of the source draws asks for each class. A draw that asks for none counts for none."""
    wanted = np.array([one.wanted for one in shown])
    return np.bincount(wanted[wanted >= 0], minlength=19) / len(shown)


def without_class(shown: Sequence[Shown]) -> float:
    """Which share of the source draws has a crop without a px of the class that it was drawn for."""
    return float(np.mean([one.wanted < 0 or one.px == 0 for one in shown]))


def rows(town: Town, columns: Mapping[str, Sequence[Shown]]) -> list[Row]:
    """A row per class, all in percent, and one of the crops without a px of theirs."""
    frequency = town.pixels.sum(axis=0) / town.pixels.sum()
    table: list[Row] = []
    for class_id, name in enumerate(CLASS_NAMES):
        shares = {column: round(100 * float(class_shares(shown)[class_id]), 2) for column, shown in columns.items()}
        table.append({"class": name, "px (%)": round(100 * float(frequency[class_id]), 2), **shares})
    empty = {column: round(100 * without_class(shown), 2) for column, shown in columns.items()}
    return [*table, {"class": "crop without its class", "px (%)": 0.0, **empty}]


def column(draws: int, maps: int, name: str) -> list[Shown]:
    """One column of the table, by its name."""
    config = eighth(next(preset for network, preset in PRESETS.items() if name.startswith(network)), draws, maps)
    simulate = by_loops if name.endswith("loops") else simulated
    return simulate(make_town(maps, config), config, has="HAS" in name)


def main() -> None:
    """Parse the arguments, draw, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=40_000, help="draws of a training, source and generated")
    parser.add_argument("--maps", type=int, default=1500, help="made label maps")
    arguments = parser.parse_args()
    names = [f"{network}{has}, {who}" for network in PRESETS for has in ("", " with HAS") for who in ("loops", "here")]
    with ProcessPoolExecutor(len(names)) as processes:
        columns = dict(zip(names, processes.map(partial(column, arguments.draws, arguments.maps), names), strict=True))
    town = make_town(arguments.maps, eighth("gta-dginstyle", arguments.draws, arguments.maps))
    record("draws", f"What {arguments.draws:,} draws ask for (% of the source's)", rows(town, columns))


if __name__ == "__main__":
    main()
