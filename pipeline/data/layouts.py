"""The folder layouts of the data sets: where a data set keeps its images, and which label belongs to an image."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

from pipeline.data.labels import CITYSCAPES_IDS, MAPILLARY_IDS, TRAIN_IDS

Ids = Mapping[int, int]


class Layout(NamedTuple):
    """Images and labels lie in two trees with the same folders below their tops and names that differ in their ends.

    `{split}` in a folder is the split; `labels` lists the ends of label files, the preferred first, each with the
    table of its ids. Where `by_condition`, the first folder below the top is the weather.
    """

    image_top: str
    image_end: str
    label_top: str
    labels: tuple[tuple[str, Ids], ...]
    by_condition: bool = False


class Found(NamedTuple):
    """An image, the labels that it may have (preferred first), its name and its condition."""

    name: str
    image: Path
    labels: list[tuple[Path, Ids]]
    condition: str | None


_ACDC = (("_gt_labelTrainIds.png", TRAIN_IDS), ("_gt_labelIds.png", CITYSCAPES_IDS))
LAYOUTS = {
    "gta": Layout("images", ".png", "labels", (("_labelTrainIds.png", TRAIN_IDS), (".png", CITYSCAPES_IDS))),
    "cityscapes": Layout(
        "leftImg8bit/{split}",
        "_leftImg8bit.png",
        "gtFine/{split}",
        (("_gtFine_labelTrainIds.png", TRAIN_IDS), ("_gtFine_labelIds.png", CITYSCAPES_IDS)),
    ),
    "bdd100k": Layout("images/10k/{split}", ".jpg", "labels/sem_seg/masks/{split}", ((".png", TRAIN_IDS),)),
    "mapillary": Layout("{split}/images", ".jpg", "{split}/labels", ((".png", MAPILLARY_IDS),)),
    "acdc": Layout("rgb_anon", "_rgb_anon.png", "gt", _ACDC, by_condition=True),
    "dark-zurich": Layout("rgb_anon/{split}", "_rgb_anon.png", "gt/{split}", _ACDC, by_condition=True),
}
"""Cityscapes, BDD100K, Mapillary Vistas v1.2, ACDC and Dark Zurich as unpacked; GTA5 with either kind of ids."""

SPLITS = {"mapillary": {"val": "validation", "train": "training"}}
"""What a data set calls a split, where it is not `train` and `val`."""


def tops(name: str, split: str) -> tuple[str, str]:
    """The folders of images and of labels below the root."""
    layout, split = LAYOUTS[name], SPLITS.get(name, {}).get(split, split)
    return layout.image_top.format(split=split), layout.label_top.format(split=split)


def find(name: str, root: Path, split: str) -> Iterator[Found]:
    """Every image of a split below `root`, in no order."""
    layout = LAYOUTS[name]
    image_top, label_top = (root / top for top in tops(name, split))
    for image in image_top.rglob(f"*{layout.image_end}"):
        folders = image.parent.relative_to(image_top)
        # ACDC has the split below the condition, or none where the conditions were flattened away.
        if name == "acdc" and split not in folders.parts[:2]:
            continue
        stem = image.name.removesuffix(layout.image_end)
        labels = [(label_top / folders / f"{stem}{end}", ids) for end, ids in layout.labels]
        yield Found(stem, image, labels, _condition(folders, split) if layout.by_condition else None)


def _condition(folders: PurePath, split: str) -> str | None:
    first = folders.parts[0] if folders.parts else split
    return None if first == split else first
