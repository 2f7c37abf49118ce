"""Crops of label maps: reading, shrinking, cutting; crops that show a class."""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np
from PIL import Image

from pipeline.data.datasets import Scene
from pipeline.data.image_files import image_size
from pipeline.data.labels import IGNORE, NUM_CLASSES, load_label_map
from pipeline.data.rare_classes import first_good
from pipeline.errors import UserError
from pipeline.requests import Box
from pipeline.work.threads import in_order

CROP_SHARE = 0.01
"""Which share of a crop its class should cover (DGInStyle, released code)."""
KEPT_BYTES = 2**29


class LabelReader:
    """Reads label maps by scene id, shrunk to `label_height` px (nearest) where that is given. Threads may share it.

    The latest maps are kept decoded, up to `KEPT_BYTES`: plans and shards come back to the same ones.
    """

    def __init__(self, scenes: Sequence[Scene], label_height: int | None) -> None:
        self._scenes = {scene.id: scene for scene in scenes}
        self._height = label_height
        self._recent: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._keeping = Lock()

    def read(self, source: str) -> np.ndarray:
        """The (H, W) uint8 label map of scene `source`."""
        with self._keeping:
            if source in self._recent:
                self._recent.move_to_end(source)
                return self._recent[source]
        scene = self._scenes[source]
        label = shrink(load_label_map(scene.label, scene.ids), self._height)
        with self._keeping:
            if source not in self._recent:  # another thread may have read it meanwhile
                self._recent[source] = label
                self._bytes += label.nbytes
            while self._bytes > KEPT_BYTES and len(self._recent) > 1:
                self._bytes -= self._recent.popitem(last=False)[1].nbytes
        return label

    def crop(self, source: str, box: Box) -> np.ndarray:
        """The part of scene `source` inside `box`."""
        label = self.read(source)
        return label[box.top : box.top + box.height, box.left : box.left + box.width]


def shrink(label: np.ndarray, height: int | None) -> np.ndarray:
    """Resize a label map to `height` px, nearest, keeping its aspect ratio."""
    if height is None or height == label.shape[0]:
        return label
    width = shrunk_size(label.shape[0], label.shape[1], height)[1]
    return np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))


def shrunk_size(height: int, width: int, wanted: int | None) -> tuple[int, int]:
    """(height, width) of a map of that size once it is shrunk to `wanted` px."""
    return (height, width) if wanted is None else (wanted, round(width * wanted / height))


def check_crops_fit(scenes: Sequence[Scene], size: tuple[int, int], label_height: int | None) -> None:
    """Read the header of every label map. Raises UserError, with the file, where one is smaller than a crop."""
    sizes = in_order(lambda scene: image_size(scene.label, "label"), scenes, ahead=64, threads=16)
    for scene, size_of_map in zip(scenes, sizes, strict=True):
        height, width = shrunk_size(*size_of_map, label_height)
        if height < size[0] or width < size[1]:
            raise UserError(
                f"{scene.label} is {width}x{height} px{' once shrunk' if label_height else ''}, smaller than the crop"
                f" of {size[1]}x{size[0]} px: lower generation.size, raise generation.label_height or remove the map"
            )


def draw_crop(label: np.ndarray, size: tuple[int, int], class_id: int, rng: np.random.Generator) -> Box:
    """A crop of `size` centered, as far as it fits, on a random px of the class; drawn again until the class covers
    more than 1% of it, 10 times at most (DGInStyle, released code).

    The map holds the class and is not smaller than the crop, see `check_crops_fit`.
    """
    height, width = size
    # Counted by rows: the places of all px of a class would take eight times the map's memory.
    counts = np.count_nonzero(label == class_id, axis=1)
    ends = counts.cumsum()

    def draw() -> Box:
        number = int(rng.integers(ends[-1]))
        row = int(np.searchsorted(ends, number, side="right"))
        column = np.flatnonzero(label[row] == class_id)[number - (ends[row] - counts[row])]
        top, left = centered_corner(label.shape, size, row * label.shape[1] + int(column))
        return Box(top, left, height, width)

    def shows(box: Box) -> bool:
        inside = label[box.top : box.top + height, box.left : box.left + width]
        return bool(np.count_nonzero(inside == class_id) > CROP_SHARE * height * width)

    return first_good(draw, shows)


def centered_corner(shape: tuple[int, ...], size: tuple[int, int], place: int) -> tuple[int, int]:
    """Top and left of a crop of `size`, as far as it fits centered on a px of a map of `shape`, counted row by row."""
    row, column = divmod(place, shape[1])
    top, left = row - size[0] // 2, column - size[1] // 2
    return min(max(top, 0), shape[0] - size[0]), min(max(left, 0), shape[1] - size[1])


def condition(labels: np.ndarray, channels: int, colors: np.ndarray | None = None) -> np.ndarray:
    """ControlNet condition (B, channels, H, W) float32 of label maps (B, H, W), for a network that takes `channels`:
    20 = one-hot, 3 = the `colors` (256, 3) uint8 of the train ids, in [0, 1]."""
    if channels != 3:
        return one_hot(labels)
    if colors is None:
        raise ValueError("a condition of 3 channels needs the colors of the classes")
    return (colors[labels].transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)


def one_hot(labels: np.ndarray) -> np.ndarray:
    """ControlNet condition (B, 20, H, W) float32 of label maps (B, H, W): 19 classes, ignore as channel 19."""
    channels = np.minimum(labels, NUM_CLASSES)
    if not np.array_equal(channels == NUM_CLASSES, labels == IGNORE):
        raise ValueError(f"label maps hold ids between {NUM_CLASSES} and {IGNORE - 1}")
    return np.eye(NUM_CLASSES + 1, dtype=np.float32)[channels].transpose(0, 3, 1, 2)
