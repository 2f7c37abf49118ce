"""From drawn images to batches of crops.

`draws.py` says which image comes next, `pools.py` reads it. A crop depends on nothing but its `Draw` and the run's
seed, so batches are the same with any number of workers.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.config.training import TrainingConfig
from pipeline.data.labels import IGNORE
from pipeline.data.rare_classes import first_good
from pipeline.errors import UserError
from pipeline.seeding import random_generator
from training.draws import Draw
from training.photometric import draw_distortion
from training.pools import ImagePool

CACHE_BYTES = 2**30
"""A pool whose decoded images fit in here keeps them in memory (per loader process)."""
Corner = tuple[int, int]
"""Top and left px of a crop."""


class Batch(NamedTuple):
    """image (B,3,H,W) uint8 RGB, label (B,H,W) uint8 train ids, distortion (B,5) float (see `Distortion`)."""

    image: torch.Tensor
    label: torch.Tensor
    distortion: torch.Tensor


Reader = Callable[[int], tuple[np.ndarray, np.ndarray]]


class TrainingSet(Dataset[Batch]):
    """Crops by `Draw`; a `DataLoader` collates them to a `Batch`."""

    def __init__(self, pools: Sequence[ImagePool], config: TrainingConfig, seed: int) -> None:
        self.pools = pools
        self.config = config
        self.seed = seed
        self.readers = [_reader(pool) for pool in pools]
        for reader in self.readers:
            check_crop(reader(0)[1], config.crop)  # here, as loader workers wrap their errors in a traceback

    def __getitem__(self, draw: Draw) -> Batch:
        rng = random_generator(self.seed, "sample", draw.iteration, draw.position)
        image, label = self.readers[draw.pool](draw.image)
        corner = self._corner(label, draw.wanted_class, rng)
        image, label = self._cut(image, corner), self._cut(label, corner)
        if rng.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        distortion = draw_distortion(rng)
        if draw.pool and self.config.generated_shift:  # drawn last: without it nothing else is drawn otherwise
            angle = 2 * np.pi * rng.random()
            way = self.config.generated_shift * np.sin(angle), self.config.generated_shift * np.cos(angle)
            label = moved(label, (round(way[0]), round(way[1])))
        return Batch(
            torch.tensor(image.transpose(2, 0, 1).copy()), torch.tensor(label.copy()), torch.tensor(distortion)
        )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "readers": None}  # a memory cache is not sent to spawned workers

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.readers = [_reader(pool) for pool in self.pools]

    def _corner(self, label: np.ndarray, wanted: int, rng: np.random.Generator) -> Corner:
        """A crop that shows enough of the wanted class (none: -1), if ten tries find one."""
        check_crop(label, self.config.crop)

        def shows(corner: Corner) -> bool:
            return bool(np.count_nonzero(self._cut(label, corner) == wanted) > self.config.rare_class_crop)

        draw = partial(self._varied_corner, label, rng)
        return first_good(draw, shows) if wanted >= 0 else draw()

    def _varied_corner(self, label: np.ndarray, rng: np.random.Generator) -> Corner:
        """A crop in which no class covers too much, if ten tries find one."""
        height, width = self.config.crop

        def draw() -> Corner:
            top, left = rng.integers((label.shape[0] - height + 1, label.shape[1] - width + 1))
            return int(top), int(left)

        def varied(corner: Corner) -> bool:
            counts = np.bincount(self._cut(label, corner).ravel(), minlength=IGNORE)[:IGNORE]
            return bool(counts.max() < self.config.crop_class_share * counts.sum())

        return first_good(draw, varied) if self.config.crop_class_share < 1 else draw()

    def _cut(self, array: np.ndarray, corner: Corner) -> np.ndarray:
        """The crop (h,w) or (h,w,3) of `array`."""
        (top, left), (height, width) = corner, self.config.crop
        return array[top : top + height, left : left + width]


def moved(label: np.ndarray, way: tuple[int, int]) -> np.ndarray:
    """(H,W) label map whose px have gone `way` = (down, right) px; where none came from is ignored."""
    height, width = label.shape
    frame = max(map(abs, way))
    padded = np.pad(label, frame, constant_values=IGNORE)
    return padded[frame - way[0] : frame - way[0] + height, frame - way[1] : frame - way[1] + width]


def check_crop(label: np.ndarray, crop: tuple[int, int]) -> None:
    """UserError if a crop of (H,W) px does not fit into the image."""
    if label.shape[0] < crop[0] or label.shape[1] < crop[1]:
        raise UserError(
            f"a training image has {label.shape[1]}x{label.shape[0]} px, smaller than the crop of {crop[1]}x{crop[0]}:"
            " lower training.crop, or raise training.source_size or training.generated_size"
        )


def loader_rate(samples: TrainingSet, batches: Sequence[Sequence[Draw]], workers: int) -> float:
    """Images per second that a loader of its own gives of `batches` while nothing else is done; the first batch, for
    which its workers must start, is left out."""
    loader = DataLoader(
        samples, batch_sampler=[list(batch) for batch in batches], num_workers=workers, generator=torch.Generator()
    )
    arrivals = iter(loader)
    next(arrivals)
    start = time.perf_counter()
    images = sum(len(batch.image) for batch in arrivals)
    return images / (time.perf_counter() - start)


def _reader(pool: ImagePool) -> Reader:
    """`pool.read`, with a memory where everything fits."""
    image, label = pool.read(0)
    fits = (image.nbytes + label.nbytes) * len(pool) <= CACHE_BYTES
    return cache(pool.read) if fits else pool.read
