"""Which image is trained on next: hardness-aware sampling (FLEX-Seg, HAS) and rare-class sampling (DAFormer, RCS)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from pipeline.data.rare_classes import rare_class_probabilities

Schedule = Literal["sigmoid", "linear", "none"]


def hardness_threshold(
    t: float, schedule: Schedule = "sigmoid", steepness: float = 0.05, midpoint: float = 50.0
) -> float:
    """Probability of a plain draw at t = 100 x iteration / iterations: 1 / (1 + exp(k (t - m))).

    `linear` falls from 1 to 0, `none` is always 0: every draw is weighted by hardness (the paper's ablation).
    """
    if schedule == "none":
        return 0.0
    if schedule == "linear":
        return 1.0 - t / 100.0
    return float(1.0 / (1.0 + np.exp(steepness * (t - midpoint))))


class HardnessSampler:
    """A moving average of each image's loss, (N,) float64, and how often each was seen, (N,) int64."""

    def __init__(self, images: int, *, rate: float = 0.9, temperature: float = 1.0) -> None:
        self.hardness = np.zeros(images)
        self.counts = np.zeros(images, dtype=np.int64)
        self.rate = rate
        self.temperature = temperature

    def update(self, index: int, loss: float) -> None:
        """h <- rate h + (1 - rate) loss; the first sighting copies the loss (ours)."""
        seen = self.counts[index] > 0
        self.hardness[index] = self.rate * self.hardness[index] + (1 - self.rate) * loss if seen else loss
        self.counts[index] += 1

    def probabilities(self) -> np.ndarray:
        """softmax(h / temperature), (N,) float64; unseen images hold the mean of the seen (ours)."""
        seen = self.counts > 0
        mean = self.hardness[seen].mean() if seen.any() else 0.0
        return _softmax(np.where(seen, self.hardness, mean) / self.temperature)

    def state(self) -> Mapping[str, np.ndarray]:
        """What a checkpoint keeps."""
        return {"hardness": self.hardness.copy(), "counts": self.counts.copy()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes up a checkpoint's `state()`."""
        self.hardness, self.counts = np.array(state["hardness"]), np.array(state["counts"])


class RareClassSampler:
    """Draws a class, then an image that holds it. pixels: (N,C) pixels per image and class.

    An image holds a class from `minimum` px on. A class that no image holds so often is never drawn.
    """

    def __init__(self, pixels: np.ndarray, *, temperature: float = 0.01, minimum: int = 3000) -> None:
        self.images = [np.flatnonzero(pixels[:, c] > minimum) for c in range(pixels.shape[1])]
        held = np.array([len(images) > 0 for images in self.images])
        if not held.any():
            raise ValueError(f"no image has more than {minimum} px of any class: lower the minimum")
        self.chances = rare_class_probabilities(pixels.sum(axis=0), temperature, held)

    def draw(self, random: np.random.Generator) -> tuple[int, int]:
        """(image index, class)."""
        wanted = int(random.choice(len(self.chances), p=self.chances))
        return int(random.choice(self.images[wanted])), wanted


def _softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    return np.asarray(exponentials / exponentials.sum())
