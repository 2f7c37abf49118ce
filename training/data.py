"""From drawn images to batches of crops.

`draws.py` says which image comes next, `pools.py` reads it. A crop depends on nothing but its `Draw` and the run's
seed, so batches are the same with any number of workers.
"""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pipeline.config.training import TrainingConfig
from pipeline.data.labels import IGNORE
from pipeline.data.rare_classes import first_good
from pipeline.data.resizing import cut
from pipeline.errors import UserError
from pipeline.requests import Box
from pipeline.seeding import random_generator
from training.draws import Draw
from training.photometric import draw_distortion
from training.pools import ImagePool, RememberedPool

CACHE_BYTES = 2**30
"""A pool whose decoded images fit in here keeps them in memory (per loader process)."""
PREFETCH = 4
"""Batches that each loader process is ahead: a few slow files in a row are not waited for."""


class Batch(NamedTuple):
    """image (B,3,H,W) uint8 RGB, label (B,H,W) uint8 train ids, distortion (B,5) float (see `Distortion`)."""

    image: torch.Tensor
    label: torch.Tensor
    distortion: torch.Tensor


class TrainingSet(Dataset[Batch]):
    """Crops by `Draw`; a `DataLoader` collates them to a `Batch`."""

    def __init__(self, pools: Sequence[ImagePool], config: TrainingConfig, seed: int) -> None:
        self.pools = [_remembered(pool) for pool in pools]
        self.config = config
        self.seed = seed
        for pool in self.pools:
            check_crop(pool.label(0), config.crop)  # here, as loader workers wrap their errors in a traceback

    def __getitem__(self, draw: Draw) -> Batch:
        rng = random_generator(self.seed, "sample", draw.iteration, draw.position)
        pool = self.pools[draw.pool]
        label = pool.label(draw.image)
        box = self.crop_box(label, draw.wanted_class, rng)
        image, label = pool.image(draw.image, box), cut(label, box)
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

    def crop_box(self, label: np.ndarray, wanted: int, rng: np.random.Generator) -> Box:
        """A crop of the label map (H,W) that shows enough of the wanted class (none: -1), if ten tries find one."""
        check_crop(label, self.config.crop)

        def shows(box: Box) -> bool:
            return bool(np.count_nonzero(cut(label, box) == wanted) > self.config.rare_class_crop)

        draw = partial(self._varied_box, label, rng)
        return first_good(draw, shows) if wanted >= 0 else draw()

    def _varied_box(self, label: np.ndarray, rng: np.random.Generator) -> Box:
        """A crop in which no class covers too much, if ten tries find one."""
        height, width = self.config.crop

        def draw() -> Box:
            top, left = rng.integers((label.shape[0] - height + 1, label.shape[1] - width + 1))
            return Box(int(top), int(left), height, width)

        def varied(box: Box) -> bool:
            counts = Image.fromarray(cut(label, box)).histogram()[:IGNORE]
            return max(counts) < self.config.crop_class_share * sum(counts)

        return first_good(draw, varied) if self.config.crop_class_share < 1 else draw()


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


def batch_loader(
    samples: TrainingSet, batches: Iterable[list[Draw]], *, workers: int, block: int, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Loads `batches` in order, in processes of its own. They are asked for ahead, but never more than a block's number
    of them: the draws reach no further."""
    workers = min(workers, block)
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=min(PREFETCH, block // workers) if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the loader draws nothing that matters, but would advance the global one
    )


def loader_rate(samples: TrainingSet, batches: Sequence[list[Draw]], workers: int) -> float:
    """Images per second that a loader of its own gives of `batches` while nothing else is done; the first batch, for
    which its workers must start, is left out."""
    arrivals = iter(batch_loader(samples, batches, workers=workers, block=len(batches)))
    next(arrivals)
    start = time.perf_counter()
    images = sum(len(batch.image) for batch in arrivals)
    return images / (time.perf_counter() - start)


def _remembered(pool: ImagePool) -> ImagePool:
    """The pool, with a memory where everything fits."""
    rgb_and_label = 4 * pool.label(0).size
    return RememberedPool(pool) if rgb_and_label * len(pool) <= CACHE_BYTES else pool
