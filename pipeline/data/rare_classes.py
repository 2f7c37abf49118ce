"""Rare-class sampling: which class a crop is asked to show (DAFormer sec. 3.3), and how it is found."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

CROP_TRIES = 10
"""Random crops of which the first good one is taken (DAFormer's and DGInStyle's released code)."""
Crop = TypeVar("Crop")


def rare_class_probabilities(
    pixels: np.ndarray, temperature: float = 0.01, available: np.ndarray | None = None
) -> np.ndarray:
    """P(c) = softmax((1 - f_c) / T), (C,) float64 (DAFormer equation 9).

    `pixels` (C,) counts the data set's pixels of each class, f_c is their share. Only the classes that are
    `available`, (C,) bool, are ever drawn; by default those with a pixel.
    """
    frequency = pixels / max(pixels.sum(), 1)
    logits = np.where(pixels > 0 if available is None else available, (1 - frequency) / temperature, -np.inf)
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def first_good(draw: Callable[[], Crop], good: Callable[[Crop], bool]) -> Crop:
    """The first of ten draws that is good, else the last."""
    for _ in range(CROP_TRIES):
        crop = draw()
        if good(crop):
            break
    return crop
