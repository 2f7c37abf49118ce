"""Crops of label maps: reading, shrinking, cutting; crops that show a class."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.datasets import Scene
from pipeline.errors import UserError
from pipeline.labels import IGNORE, NUM_CLASSES, load_label_map
from pipeline.records import Box

CROP_TRIES = 10  # released DAFormer and DGInStyle code


class LabelReader:
    """Reads label maps by scene id, shrunk to `label_height` px (nearest) where that is given.

    A few recent maps are kept decoded, since plans and shards visit neighbors of the same map.
    """

    def __init__(self, scenes: Sequence[Scene], label_height: int | None, keep: int = 64) -> None:
        self._scenes = {scene.id: scene for scene in scenes}
        self._height = label_height
        self._keep = keep
        self._recent: OrderedDict[str, np.ndarray] = OrderedDict()

    def read(self, source: str) -> np.ndarray:
        """The (H, W) uint8 label map of scene `source`."""
        if source in self._recent:
            self._recent.move_to_end(source)
            return self._recent[source]
        scene = self._scenes[source]
        label = shrink(load_label_map(scene.label, scene.ids), self._height)
        self._recent[source] = label
        if len(self._recent) > self._keep:
            self._recent.popitem(last=False)
        return label

    def crop(self, source: str, box: Box) -> np.ndarray:
        """The part of scene `source` inside `box`."""
        label = self.read(source)
        return label[box.top : box.top + box.height, box.left : box.left + box.width]


def shrink(label: np.ndarray, height: int | None) -> np.ndarray:
    """Resize a label map to `height` px, nearest, keeping its aspect ratio."""
    if height is None or height == label.shape[0]:
        return label
    width = round(label.shape[1] * height / label.shape[0])
    return np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))


def draw_crop(label: np.ndarray, size: tuple[int, int], class_id: int, wanted: float, rng: np.random.Generator) -> Box:
    """A random crop of `size` that covers more than `wanted` px of the class; the last of 10 tries where none does."""
    height, width = size
    if label.shape[0] < height or label.shape[1] < width:
        raise UserError(
            f"a label map of {label.shape[1]}x{label.shape[0]} px is smaller than the crop of {width}x{height} px: "
            "lower generation.size or raise generation.label_height"
        )
    box = Box(0, 0, height, width)
    for _ in range(CROP_TRIES):
        top = int(rng.integers(0, label.shape[0] - height + 1))
        left = int(rng.integers(0, label.shape[1] - width + 1))
        box = Box(top, left, height, width)
        if np.count_nonzero(label[top : top + height, left : left + width] == class_id) > wanted:
            break
    return box


def one_hot(labels: np.ndarray) -> np.ndarray:
    """ControlNet condition (B, 20, H, W) float32 of label maps (B, H, W): 19 classes, ignore as channel 19."""
    channels = np.minimum(labels, NUM_CLASSES)
    if not np.array_equal(channels == NUM_CLASSES, labels == IGNORE):
        raise ValueError(f"label maps hold ids between {NUM_CLASSES} and {IGNORE - 1}")
    return np.eye(NUM_CLASSES + 1, dtype=np.float32)[channels].transpose(0, 3, 1, 2)
