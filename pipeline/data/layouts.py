"""The folder layouts of the data sets: where a data set keeps its images, and which label belongs to an image."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.data.labels import CITYSCAPES_IDS, MAPILLARY_IDS, TRAIN_IDS
from pipeline.data.trees import check_name, files_below
from pipeline.errors import UserError

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
    """An image, its label (None where there is none; `wanted` names those it may have) with the table of its ids, its
    name and its condition."""

    name: str
    image: Path
    label: Path | None
    ids: Ids
    condition: str | None
    wanted: tuple[Path, ...]


class LabelAlone(NamedTuple):
    """A label map that belongs to no image, the image that was looked for, and the table of its ids."""

    label: Path
    wanted: Path
    ids: Ids


class Files(NamedTuple):
    """A split's images, and the label maps that belong to none of them."""

    images: list[Found]
    labels_alone: list[LabelAlone]


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


SCENES = {
    ("gta", None): 24966,
    ("cityscapes", "train"): 2975,
    ("cityscapes", "val"): 500,
    ("bdd100k", "train"): 7000,
    ("bdd100k", "val"): 1000,
    ("mapillary", "train"): 18000,
    ("mapillary", "val"): 2000,
    ("acdc", "val"): 406,
    ("dark-zurich", "val"): 50,
}
"""Scenes that a split has when it is complete, as published. GTA5 is not divided."""


def published_scenes(name: str, split: str) -> int | None:
    """How many scenes the split has when it is complete; None where that is not known."""
    return SCENES.get((name, None if name == "gta" else split))


def tops(name: str, split: str) -> tuple[str, str]:
    """The folders of images and of labels below the root."""
    layout, split = LAYOUTS[name], SPLITS.get(name, {}).get(split, split)
    return layout.image_top.format(split=split), layout.label_top.format(split=split)


def find(name: str, root: Path, split: str) -> Files:
    """Every image of a split below `root` with its label, in no order. Ends of names fit without regard to case;
    UserError where two labels of an image differ in nothing else."""
    layout = LAYOUTS[name]
    image_top, label_top = (root / top for top in tops(name, split))
    by_stem: dict[tuple[PurePosixPath, str], dict[str, Path]] = {}
    for folders, file in _files(name, label_top, split):
        end = next((end for end, _ in layout.labels if _ends(file, end)), None)
        if end is not None:
            there, label = by_stem.setdefault((folders, file[: -len(end)]), {}), label_top / folders / file
            if end in there:
                raise UserError(f"{there[end]} and {label} have the same name but for capitals: remove one")
            there[end] = label
    images, used = [], set()
    for folders, file in _files(name, image_top, split):
        if not _ends(file, layout.image_end):
            continue
        stem = file[: -len(layout.image_end)]
        there = by_stem.get((folders, stem), {})
        used.add((folders, stem))
        end, ids = next(((end, ids) for end, ids in layout.labels if end in there), layout.labels[0])
        wanted = tuple(label_top / folders / f"{stem}{end}" for end, _ in layout.labels)
        condition = _condition(folders, split) if layout.by_condition else None
        images.append(Found(stem, image_top / folders / file, there.get(end), ids, condition, wanted))
    alone = []
    for (folders, stem), there in by_stem.items():
        if (folders, stem) not in used:
            label, ids = next((there[end], ids) for end, ids in layout.labels if end in there)
            alone.append(LabelAlone(label, image_top / folders / f"{stem}{layout.image_end}", ids))
    return Files(images, alone)


def _files(name: str, top: Path, split: str) -> Iterator[tuple[PurePosixPath, str]]:
    """(folders below `top`, file name) of a split's files."""
    for path in map(PurePosixPath, files_below(top)):
        # ACDC has the split below the condition, or none where the conditions were flattened away.
        if name == "acdc" and split not in path.parent.parts[:2]:
            continue
        check_name(top, str(path))
        yield path.parent, path.name


def _ends(file: str, end: str) -> bool:
    return file.lower().endswith(end.lower())


def _condition(folders: PurePosixPath, split: str) -> str | None:
    first = folders.parts[0] if folders.parts else split
    return None if first == split else first
