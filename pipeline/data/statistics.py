"""Class statistics of a data set: every label map read once, in parallel, for all who want to know.

Rare-class sampling of the training, the plan of the painting (which looks at shrunk label maps) and `flexseg data
check` take their counts from here, and so do the warnings about label maps that do not look like what the config says.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.data.datasets import Scene
from pipeline.data.image_files import open_label
from pipeline.data.labels import CITYSCAPES_IDS, CLASS_NAMES, NUM_CLASSES, check_values, class_counts
from pipeline.errors import UserError
from pipeline.work.progress import Track, silent
from pipeline.work.threads import CORES, in_order

MOSTLY = 0.9
"""A data set of whose px more than this share is ignored was probably read by the wrong table (ours)."""

_PIXELS, _SHRUNK, _WARNINGS = "class_pixels.npy", "shrunk_class_pixels.npy", "warnings.json"


class LabelCounts(NamedTuple):
    """Counts of one label map."""

    stored: np.ndarray
    """(256,) int64: px of each stored value."""
    pixels: np.ndarray
    """(19,) int64: px of each class."""
    shrunk: np.ndarray
    """(19,) int64: px of each class once the map is shrunk; the same as `pixels` where it is not."""
    size: tuple[int, int]
    """(H, W) px."""


class Statistics(NamedTuple):
    """Counts of a data set's label maps, in the order of its scenes."""

    pixels: np.ndarray
    """(N, 19) int64: px of each class in each label map."""
    shrunk: np.ndarray
    """(N, 19) int64: the same once each map is shrunk to the height that was asked for."""
    warnings: Sequence[str]
    """What looks wrong in the label maps as a whole, a line each."""

    def write(self, folder: Path) -> None:
        """Writes them into `folder`."""
        np.save(folder / _PIXELS, self.pixels)
        np.save(folder / _SHRUNK, self.shrunk)
        (folder / _WARNINGS).write_text(json.dumps(list(self.warnings), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Statistics":
        """What `write` has written."""
        warnings = json.loads((folder / _WARNINGS).read_text(encoding="utf-8"))
        return cls(np.load(folder / _PIXELS), np.load(folder / _SHRUNK), warnings)


def count_label(scene: Scene, height: int | None = None) -> LabelCounts:
    """Decodes a scene's label map and counts it, also as shrunk to `height` px (nearest, keeping its aspect ratio).

    UserError for a file that cannot be read whole, or holds a value that its table has not.
    """
    image = open_label(scene.label)
    stored = np.array(image.histogram(), np.int64)
    check_values(scene.label, stored, scene.ids)
    pixels = class_counts(stored, scene.ids)
    shrunk = pixels
    if height is not None and height != image.height:
        width = round(image.width * height / image.height)
        small = image.resize((width, height), Image.Resampling.NEAREST)
        shrunk = class_counts(np.array(small.histogram()), scene.ids)
    return LabelCounts(stored, pixels, shrunk, (image.height, image.width))


def count_labels(scenes: Sequence[Scene], height: int | None = None, progress: Track = silent) -> Statistics:
    """`count_label` of every scene, in threads. UserError for the first bad label map, and where there is no scene."""
    if not scenes:
        raise UserError("there are no label maps to count")
    counting = in_order(lambda scene: count_label(scene, height), scenes, ahead=4 * CORES, threads=CORES)
    counts = list(progress(counting, total=len(scenes), description="reading label maps"))
    pixels, shrunk = np.stack([one.pixels for one in counts]), np.stack([one.shrunk for one in counts])
    return Statistics(pixels, shrunk, label_warnings(scenes, counts))


def class_pixels(scenes: Sequence[Scene], progress: Track = silent) -> np.ndarray:
    """(N, 19) int64: how many px of each class each scene's label map has, see `count_labels`."""
    return count_labels(scenes, progress=progress).pixels


def label_warnings(scenes: Sequence[Scene], counts: Sequence[LabelCounts]) -> list[str]:
    """What looks wrong in label maps that can all be read: a wrong id table gives no error where its ids are listed."""
    if not counts:
        return []
    total, labeled = sum(one.stored.sum() for one in counts), sum(one.pixels.sum() for one in counts)
    warnings = []
    if total - labeled > MOSTLY * total:
        share = 100 * (total - labeled) / total
        warnings.append(f"{share:.1f}% of all px are ignored: do the label maps hold what 'ids' or 'layout' says?")
    of_cityscapes = [one.stored for scene, one in zip(scenes, counts, strict=True) if scene.ids == CITYSCAPES_IDS]
    if of_cityscapes:
        warnings += _cityscapes_warnings(np.sum(of_cityscapes, axis=0))
    return warnings


def _cityscapes_warnings(stored: np.ndarray) -> list[str]:
    """`stored` (256,) counts the values of files that are read as Cityscapes' label ids (0 to 34)."""
    values = np.flatnonzero(stored)
    if values[values != 255].max(initial=0) < NUM_CLASSES:
        return [
            f"the label maps are read as Cityscapes' label ids, but hold only the values {_listed(values)}, as train"
            " ids do: are they train ids (ids: train, or files named *_labelTrainIds.png)?"
        ]
    if stored[255]:
        return [
            f"255 stands in {stored[255]:,} px of label maps that are read as Cityscapes' label ids, which end at 34:"
            " are some of the files train ids?"
        ]
    return []


def absent_classes(pixels: np.ndarray) -> list[str]:
    """Names of the classes of which no label map has a px; `pixels` (N, 19) or (19,)."""
    return [name for name, count in zip(CLASS_NAMES, pixels.reshape(-1, NUM_CLASSES).sum(0), strict=True) if not count]


def check_labeled(name: str, pixels: np.ndarray) -> None:
    """UserError where none of the label maps holds a class; `pixels` (N, 19)."""
    if not pixels.any():
        raise UserError(
            f"{name}: none of the {len(pixels):,} label maps holds a class, all pixels are ignored: correct 'ids' or"
            " 'layout' of this data set"
        )


def _listed(values: np.ndarray) -> str:
    return ", ".join(map(str, values[:20])) + (", ..." if len(values) > 20 else "")
