"""How well the edges of an image follow the boundaries of its label map (ours)."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter

from pipeline.labels import IGNORE

DETECTOR_GRID = 64  # controlnet-aux rounds the size that it detects at to multiples of this


@cache
def canny() -> Callable[..., Any]:
    """controlnet-aux's Canny detector, imported late: the package loads every detector that it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from controlnet_aux import CannyDetector
    return CannyDetector()


def image_edges(image: np.ndarray) -> np.ndarray:
    """Canny edges (H, W) bool of an image (H, W, 3) uint8."""
    height, width = image.shape[:2]
    resolution = max(DETECTOR_GRID, round(min(height, width) / DETECTOR_GRID) * DETECTOR_GRID)
    edges = canny()(image, detect_resolution=resolution, image_resolution=resolution)[..., 0]
    return np.asarray(Image.fromarray(edges).resize((width, height), Image.Resampling.BILINEAR)) >= 128


def label_edges(label: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool whose right or lower neighbor has another class; ignored pixels bound nothing."""
    edges = np.zeros(label.shape, bool)
    for here, there, out in (
        (label[:, :-1], label[:, 1:], edges[:, :-1]),
        (label[:-1], label[1:], edges[:-1]),
    ):
        out |= (here != there) & (here != IGNORE) & (there != IGNORE)
    return edges


def alignment(image: np.ndarray, label: np.ndarray, radius: int) -> float:
    """Share of the label map's boundary px that have an image edge within `radius` px; 1 where there is no boundary."""
    boundary = label_edges(label)
    if not boundary.any():
        return 1.0
    near = maximum_filter(image_edges(image), size=2 * radius + 1)
    return float(near[boundary].mean())
