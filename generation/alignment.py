"""How well the edges of an image follow the boundaries of its label map (ours).

The score is the share of boundary px that have an image edge close by. It asks nothing of edges inside of a class's
area, where painted texture is wanted, so an image full of edges scores high on any mask. The control tells: the same
share for the same boundaries moved to elsewhere in the image. What counts is how far the score is above its control.
"""

import pickle
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter

from pipeline import hub
from pipeline.config.generation import AlignmentConfig
from pipeline.data.labels import IGNORE
from pipeline.errors import UserError, one_line

DETECTOR_GRID = 64  # controlnet-aux rounds the size that it detects at to multiples of this
CANNY_THRESHOLDS = (100, 200)  # controlnet-aux's
DETECTOR_FILES = {"hed": "ControlNetHED.pth", "pidinet": "table5_pidinet.pth"}
"""The file with the weights of each learned detector, named as controlnet-aux looks for it."""
EDGE = 128  # of 255: a detector's answer from which on a px is an edge

EdgeDetector = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 image to (H, W) bool edges."""


class Alignment(NamedTuple):
    """Both numbers lie in 0 to 1; 1 and 1 where a label map has no boundary."""

    score: float
    control: float


def edge_detector(config: AlignmentConfig, device: str = "cpu") -> EdgeDetector:
    """The detector that the config names. UserError where its weights are not there."""
    learned = None if config.detector == "canny" else _detector(config.detector, config.weights, device)

    def edges(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        resolution = max(DETECTOR_GRID, round(min(height, width) / DETECTOR_GRID) * DETECTOR_GRID)
        if learned is None:
            found = canny(image, resolution)
        else:
            found = learned(image, detect_resolution=resolution, image_resolution=resolution, output_type="np")[..., 0]
        return np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.BILINEAR)) >= EDGE

    return edges


def canny(image: np.ndarray, resolution: int) -> np.ndarray:
    """Edges 0 or 255 (h, w) uint8 of an image (H, W, 3) uint8, whose shorter side is first brought to `resolution` px.

    What controlnet-aux's CannyDetector does, bit for bit, without its package, whose import takes 13 to 20 s.
    """
    import cv2  # comes with controlnet-aux

    scale = resolution / min(image.shape[:2])
    size = [int(np.round(side * scale / DETECTOR_GRID)) * DETECTOR_GRID for side in (image.shape[1], image.shape[0])]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4 if scale > 1 else cv2.INTER_AREA)
    return np.asarray(cv2.Canny(resized, *CANNY_THRESHOLDS))


def check_detector(config: AlignmentConfig) -> None:
    """The weights of a learned detector are here, fetched if need be. UserError, one line that says how, if not."""
    _detector_folder(config.detector, config.weights)


def detector_commit(config: AlignmentConfig) -> str | None:
    """The commit of the Hub's repository whose weights a learned detector takes from the cache; None where they are not
    there. Fetches nothing."""
    found = hub.cached(config.weights, {"": ((DETECTOR_FILES[config.detector],),)})
    return None if found is None else f"commit {found.commit}"


def _detector_folder(name: str, weights: str) -> Path:
    file = DETECTOR_FILES[name]
    folder = hub.find(weights, {"": ((file,),)}, "alignment.weights").folder
    if not (folder / file).is_file():
        raise UserError(f"alignment.weights: {folder} holds no {file}: fetch it from lllyasviel/Annotators")
    return folder


@cache
def _detector(name: str, weights: str, device: str) -> Any:
    """controlnet-aux's learned detector, imported late: the package loads every detector that it has."""
    folder = _detector_folder(name, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import controlnet_aux
    kind = {"hed": controlnet_aux.HEDdetector, "pidinet": controlnet_aux.PidiNetDetector}[name]
    try:
        return kind.from_pretrained(folder).to(device)
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"alignment.weights: {folder / DETECTOR_FILES[name]} does not load as a {name} detector"
            f" ({one_line(error)}): fetch it again, or use 'canny', which needs no weights"
        ) from error


def label_edges(label: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool whose right or lower neighbor has another class; ignored pixels bound nothing."""
    edges = np.zeros(label.shape, bool)
    for here, there, out in (
        (label[:, :-1], label[:, 1:], edges[:, :-1]),
        (label[:-1], label[1:], edges[:-1]),
    ):
        out |= (here != there) & (here != IGNORE) & (there != IGNORE)
    return edges


def alignment(edges: np.ndarray, label: np.ndarray, radius: int) -> Alignment:
    """Share of the label map's boundary px that have one of the image's `edges` (H, W) within `radius` px, and the
    same of the boundaries rolled by half the width and a quarter of the height.

    The boundaries are rolled, not the map, which would get new ones at its seam. Down as well as sideways, since
    horizons lie at one height.
    """
    boundary = label_edges(label)
    if not boundary.any():
        return Alignment(1.0, 1.0)
    near = maximum_filter(edges, size=2 * radius + 1)
    height, width = label.shape
    moved = np.roll(boundary, (height // 4, width // 2), axis=(0, 1))
    return Alignment(float(near[boundary].mean()), float(near[moved].mean()))
