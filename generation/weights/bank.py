"""What the tiny generator is trained on: a fixed bank of renders, and the crops and captions drawn from it."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from generation.prompts import fill_prompt
from generation.weights.checkpoints import keep, kept
from pipeline.config.weights import PLAIN_PROMPT, PROMPT
from pipeline.data.labels import IGNORE, NUM_CLASSES
from pipeline.data.rare_classes import rare_class_probabilities
from pipeline.toytown import Rendering, render_prior, render_source
from pipeline.work.progress import Track, silent

WORLDS = {"prior": render_prior, "source": render_source}
RARE_CLASS_TEMPERATURE = 0.01  # DAFormer, released code
SEPARATOR = ", "  # between the names of classes


@dataclass(frozen=True)
class Bank:
    """N renders with their label maps."""

    images: np.ndarray  # (N, H, W, 3) uint8
    labels: np.ndarray  # (N, H, W) uint8 train ids
    weathers: np.ndarray  # (N,) str

    def pixels(self) -> np.ndarray:
        """Pixels per render and class, (N, 19)."""
        return np.stack([np.bincount(label.ravel(), minlength=IGNORE + 1)[:NUM_CLASSES] for label in self.labels])


def load_bank(
    path: Path, world: str, seed: int, count: int, size: tuple[int, int], *, progress: Track = silent
) -> Bank:
    """The first `count` renders of `world` ("prior" or "source"), read from `path` or rendered and kept there."""
    stored = kept(path, f"rendering the {world} bank")
    if stored is not None:
        images, labels = (stored.tensors[name].numpy() for name in ("images", "labels"))
        return Bank(images, labels, np.array(stored.values["weathers"]))
    renders: list[Rendering] = []
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        arrivals = workers.map(partial(WORLDS[world], seed, size=size), range(count), chunksize=16)
        renders.extend(progress(arrivals, total=count, description=f"Rendering the {world} bank"))
    images, labels = (np.stack([getattr(render, name) for render in renders]) for name in ("image", "label"))
    weathers = [render.weather for render in renders]
    keep(path, {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}, {"weathers": weathers})
    return Bank(images, labels, np.array(weathers))


class CropSampler:
    """Draws crops, aligned to latent cells: evenly, or around a pixel of a rare class (DAFormer eq. 9)."""

    def __init__(self, bank: Bank, crop: tuple[int, int], cell: int, rare_share: float) -> None:
        self._labels = bank.labels
        self._crop = crop[0] // cell, crop[1] // cell
        self._room = bank.labels.shape[1] // cell - self._crop[0], bank.labels.shape[2] // cell - self._crop[1]
        self._cell = cell
        self._rare_share = rare_share
        self._pixels = bank.pixels()
        self._classes = rare_class_probabilities(self._pixels.sum(0), RARE_CLASS_TEMPERATURE)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, 3) render index, top and left; top and left in latent cells."""
        return np.array([self._rare(rng) if rng.random() < self._rare_share else self._even(rng) for _ in range(count)])

    def _even(self, rng: np.random.Generator) -> tuple[int, int, int]:
        return (
            int(rng.integers(len(self._labels))),
            int(rng.integers(self._room[0] + 1)),
            int(rng.integers(self._room[1] + 1)),
        )

    def _rare(self, rng: np.random.Generator) -> tuple[int, int, int]:
        class_id = rng.choice(NUM_CLASSES, p=self._classes)
        index = int(rng.choice(np.flatnonzero(self._pixels[:, class_id])))
        where = np.argwhere(self._labels[index] == class_id)
        cells = where[rng.integers(len(where))] // self._cell
        corner = [
            int(rng.integers(max(0, cell - side + 1), min(room, cell) + 1))
            for cell, side, room in zip(cells, self._crop, self._room, strict=True)
        ]
        return index, corner[0], corner[1]


def cut(arrays: np.ndarray, places: np.ndarray, crop: tuple[int, int], cell: int) -> np.ndarray:
    """The crops (B, h, w, ...) of `arrays` (N, H, W, ...) at `places` (B, 3), whose corners count in `cell` px."""
    return np.stack([arrays[i, t * cell : t * cell + crop[0], x * cell : x * cell + crop[1]] for i, t, x in places])


def captions(labels: np.ndarray, weathers: Sequence[str | None]) -> list[str]:
    """Captions of crops (B, h, w): the classes present, and the weather where it is not None."""
    return [
        fill_prompt(PLAIN_PROMPT, label, SEPARATOR)
        if weather is None
        else fill_prompt(PROMPT, label, SEPARATOR, weather)
        for label, weather in zip(labels, weathers, strict=True)
    ]
