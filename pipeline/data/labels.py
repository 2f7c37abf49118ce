"""Label maps: the 19 Cityscapes classes, the id tables of the data sets, and loading that checks once.

A label map is an (H, W) uint8 array of train ids, 255 = ignore. Whoever loads one gets it read-only.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data.image_files import open_label
from pipeline.errors import UserError

IGNORE = 255


class SegmentationClass(NamedTuple):
    """One Cityscapes class: its name as prompts and tables spell it, and its colour in pictures."""

    name: str
    color: tuple[int, int, int]


CLASSES = (
    SegmentationClass("road", (128, 64, 128)),
    SegmentationClass("sidewalk", (244, 35, 232)),
    SegmentationClass("building", (70, 70, 70)),
    SegmentationClass("wall", (102, 102, 156)),
    SegmentationClass("fence", (190, 153, 153)),
    SegmentationClass("pole", (153, 153, 153)),
    SegmentationClass("traffic light", (250, 170, 30)),
    SegmentationClass("traffic sign", (220, 220, 0)),
    SegmentationClass("vegetation", (107, 142, 35)),
    SegmentationClass("terrain", (152, 251, 152)),
    SegmentationClass("sky", (70, 130, 180)),
    SegmentationClass("person", (220, 20, 60)),
    SegmentationClass("rider", (255, 0, 0)),
    SegmentationClass("car", (0, 0, 142)),
    SegmentationClass("truck", (0, 0, 70)),
    SegmentationClass("bus", (0, 60, 100)),
    SegmentationClass("train", (0, 80, 100)),
    SegmentationClass("motorcycle", (0, 0, 230)),
    SegmentationClass("bicycle", (119, 11, 32)),
)
NUM_CLASSES = len(CLASSES)
CLASS_NAMES = tuple(c.name for c in CLASSES)

TRAIN_IDS = {**{i: i for i in range(NUM_CLASSES)}, IGNORE: IGNORE}
"""Table from train ids to themselves."""
_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_IDS = {**dict.fromkeys(range(-1, 35), IGNORE), **dict(zip(_CITYSCAPES, range(NUM_CLASSES), strict=True))}
"""Table from Cityscapes' label ids (-1 to 34, also used by GTA5) to train ids."""
_MAPILLARY = (  # per train id
    *((13, 24, 41), (2, 15), (17,), (6,), (3,), (45, 47), (48,), (50,), (30,), (29,)),
    *((27,), (19,), (20, 21, 22), (55,), (61,), (54,), (58,), (57,), (52,)),
)
MAPILLARY_IDS = {
    **dict.fromkeys(range(66), IGNORE),
    **{stored: train_id for train_id, group in enumerate(_MAPILLARY) for stored in group},
}
"""Table from the 66 classes of Mapillary Vistas v1.2 to train ids."""

_UNKNOWN = 254


def load_label_map(path: Path, ids: Mapping[int, int]) -> np.ndarray:
    """Loads a label map and translates its ids: (H, W) uint8 train ids, 255 = ignore, read-only.

    `ids` is the table from the file's values to train ids; -1 stands for the stored 255. PNG and BMP of one channel and
    at most 8 bits are read, palettes by index. UserError: a file that cannot be read whole, another kind, a value that
    the table does not have.
    """
    image = open_label(path)
    label = np.asarray(image.point(_lookup_table(tuple(ids.items())).tolist()))
    if (label == _UNKNOWN).any():
        check_values(path, np.array(image.histogram()), ids)
    label.flags.writeable = False
    return label


def check_values(path: Path, stored: np.ndarray, ids: Mapping[int, int]) -> None:
    """UserError where the label map at `path` holds a value that `ids` has not; `stored` (256,) counts its values."""
    unknown = np.flatnonzero((stored > 0) & (_lookup_table(tuple(ids.items())) == _UNKNOWN))
    if not len(unknown):
        return
    came = ", ".join(f"{value} ({stored[value]} px)" for value in unknown[:5])
    wanted = ", ".join(str(i) for i in sorted(ids))
    raise UserError(
        f"{path}: label id {came} is not in the data set's id table, which has {wanted};"
        " correct the file, or list the id under 'ids' of the data set (255 = ignore)"
    )


def class_counts(stored: np.ndarray, ids: Mapping[int, int]) -> np.ndarray:
    """(19,) int64: px of each class in a label map whose stored values were counted: (256,) integers."""
    counts = np.bincount(_lookup_table(tuple(ids.items())), weights=stored, minlength=_UNKNOWN + 1)
    return counts[:NUM_CLASSES].astype(np.int64)


@lru_cache
def _lookup_table(ids: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(256,) uint8 from stored value to train id, `_UNKNOWN` where the table has nothing."""
    table = np.full(256, _UNKNOWN, np.uint8)
    for stored, train_id in ids:
        table[stored % 256] = train_id
    return table
