"""Large connected components of a label map: what multi-resolution latent fusion keeps from the first pass."""

import numpy as np
from scipy.ndimage import label as connected_components

from pipeline.data.labels import IGNORE

EIGHT_NEIGHBORS = np.ones((3, 3), bool)


def large_components(label: np.ndarray, pixels: int) -> np.ndarray:
    """Px (H, W) bool of `label` that lie in an 8-connected component of one class with more than `pixels` px.

    Ignored px lie in none, as in the released code: what is there is unknown, and may be small.
    """
    large = np.zeros(label.shape, bool)
    sizes = np.bincount(label.ravel(), minlength=IGNORE + 1)
    for class_id in np.flatnonzero(sizes[:IGNORE] > pixels):
        components, count = connected_components(label == class_id, EIGHT_NEIGHBORS)
        keep = np.bincount(components.ravel(), minlength=count + 1) > pixels
        keep[0] = False  # all other classes
        large |= keep[components]
    return large


def to_cells(mask: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """`mask` (H, W) at `canvas` cells, nearest: a cell takes its first px, as in the released code."""
    rows = np.arange(canvas[0]) * mask.shape[0] // canvas[0]
    columns = np.arange(canvas[1]) * mask.shape[1] // canvas[1]
    return mask[np.ix_(rows, columns)]
