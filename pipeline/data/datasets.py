"""Labeled data sets on disk: finding the files of each layout, checking them, and reading them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config.data import Dataset
from pipeline.data import layouts
from pipeline.data.image_files import image_size, read_image
from pipeline.data.labels import CITYSCAPES_IDS, TRAIN_IDS, load_label_map
from pipeline.data.pairing import paired
from pipeline.data.trees import Match, matches
from pipeline.errors import UserError
from pipeline.toytown import TARGETS


@dataclass(frozen=True)
class Scene:
    """One labeled picture: files, not pixels.

    `id` is unique in its data set, `image` is None where a data set is label maps only, `ids` is the table from the
    label file's values to train ids, `condition` the weather where a layout tells it.
    """

    id: str
    image: Path | None
    label: Path
    ids: Mapping[int, int]
    condition: str | None = None


class Listing(NamedTuple):
    """What there is of a data set, sorted by id, and what has no partner."""

    scenes: list[Scene]
    """Those with a label map."""
    unlabeled: list[Scene]
    """Images without a label map; `label` is where one was looked for."""
    imageless: list[Scene]
    """Label maps without an image, where the data set has images; `image` is where one was looked for."""
    published: int | None
    """Scenes that the whole split has, where that is known."""
    found: int
    """Images (or label maps, where there are no images) before `take`."""


def toytown_datasets(folder: Path) -> tuple[Dataset, tuple[Dataset, ...]]:
    """Source and targets of the world that `pipeline.toytown` rendered into `folder`."""
    source = Dataset(name="source", root=folder / "source", layout="gta")
    return source, tuple(Dataset(name=name, root=folder / "targets" / name, layout="cityscapes") for name in TARGETS)


def list_scenes(dataset: Dataset) -> Listing:
    """Everything of a data set. UserError: a missing folder, no files, two scenes of one id."""
    if not dataset.root.is_dir():
        raise UserError(f"{dataset.name}: folder {dataset.root.absolute()} not found; correct 'root' of this data set")
    try:
        scenes, unlabeled, imageless = _globs(dataset) if dataset.layout == "globs" else _layout(dataset)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(f"{dataset.name}: ") else f"{dataset.name}: {text}") from error
    missing = {scene.id for scene in unlabeled}
    everything = sorted([*scenes, *unlabeled], key=lambda scene: scene.id)
    for first, second in pairwise(everything):
        if first.id == second.id:
            raise UserError(
                f"{dataset.name}: {first.image or first.label} and {second.image or second.label} give the same id"
                f" {first.id!r}; rename one"
            )
    taken = everything[slice(*dataset.take)]
    if not taken:
        raise UserError(
            f"{dataset.name}: 'take' {list(dataset.take)} leaves none of its {len(everything)} scenes; widen it"
        )
    return Listing(
        [scene for scene in taken if scene.id not in missing],
        [scene for scene in taken if scene.id in missing],
        sorted(imageless, key=lambda scene: scene.label),
        layouts.published_scenes(dataset.layout, dataset.split),
        len(everything),
    )


def find_scenes(dataset: Dataset, *, incomplete: bool = False) -> list[Scene]:
    """The scenes of a data set, sorted by id. UserError: a missing folder, no files, an image or a label map without
    the other.

    Where `incomplete`, what has no partner stays in, for whoever reads the scenes to skip it and say so.
    """
    return usable_scenes(dataset, list_scenes(dataset), incomplete=incomplete)


def usable_scenes(dataset: Dataset, listing: Listing, *, incomplete: bool) -> list[Scene]:
    """What `find_scenes` gives, from a listing that was made before."""
    alone = [*listing.unlabeled, *listing.imageless]
    if incomplete or not alone:
        return sorted([*listing.scenes, *alone], key=lambda scene: scene.id)
    said = [
        lines[0] + (f" (and {len(lines) - 1:,} more {what})" if len(lines) > 1 else "")
        for lines, what in zip(without_partner(listing), ("images", "label maps"), strict=True)
        if lines
    ]
    raise UserError(f"{dataset.name}: {'; '.join(said)}; add what is missing or remove what is alone")


def without_partner(listing: Listing) -> tuple[list[str], list[str]]:
    """A line for each image without a label, and for each label map without an image."""
    return (
        [f"image {scene.image} has no label, wanted {scene.label}" for scene in listing.unlabeled],
        [f"label map {scene.label} has no image, wanted {scene.image}" for scene in listing.imageless],
    )


def check_pair(scene: Scene) -> None:
    """UserError unless image and label have the same size (read from the headers alone)."""
    if scene.image is not None:
        image, label = image_size(scene.image), image_size(scene.label, "label")
        if image != label:
            raise _sizes_differ(scene, image, label)


def pair_size(scene: Scene) -> tuple[int, int] | None:
    """(H, W) px that image and label have by their headers; None where they differ. UserError if there is no image, or
    no reading one of them."""
    if scene.image is None:
        raise UserError(f"{scene.id} has a label map but no image: set 'images' of its data set")
    size = image_size(scene.image)
    return size if size == image_size(scene.label, "label") else None


def load_pair(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB and (H, W) uint8 train ids of a scene.

    UserError without an image, where one of them cannot be read, and where their sizes differ.
    """
    return load_image(scene), load_label_map(scene.label, scene.ids)


def load_image(scene: Scene) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a scene. UserError as in `load_pair`."""
    if scene.image is None:
        raise UserError(f"{scene.id} has a label map but no image: set 'images' of its data set")
    check_pair(scene)  # by the headers, before anything is decoded
    return read_image(scene.image)


def _sizes_differ(scene: Scene, image: tuple[int, int], label: tuple[int, int]) -> UserError:
    return UserError(
        f"sizes differ: image {scene.image} is {image[1]}x{image[0]} px, its label {scene.label} is"
        f" {label[1]}x{label[0]} px; correct or remove the pair"
    )


def _layout(dataset: Dataset) -> tuple[list[Scene], list[Scene], list[Scene]]:
    """Scenes, images without labels and label maps without images, of a layout that `pipeline.data.layouts` knows."""
    tops = layouts.tops(dataset.layout, dataset.split)
    for top in tops:
        if not (dataset.root / top).is_dir():
            raise UserError(
                f"{dataset.name}: folder {(dataset.root / top).absolute()} not found; layout '{dataset.layout}' wants"
                " it (for another layout use 'globs')"
            )
    files = layouts.find(dataset.layout, dataset.root, dataset.split)
    if not files.images:
        raise UserError(
            f"{dataset.name}: no *{layouts.LAYOUTS[dataset.layout].image_end} of split '{dataset.split}' under"
            f" {dataset.root.absolute() / tops[0]}; correct 'root', 'split' or 'layout' of this data set"
        )
    scenes = [Scene(f.name, f.image, f.label, f.ids, f.condition) for f in files.images if f.label]
    unlabeled = [Scene(f.name, f.image, f.wanted[0], f.ids, f.condition) for f in files.images if not f.label]
    return (
        scenes,
        unlabeled,
        [_imageless(dataset, alone.label, alone.wanted, alone.ids) for alone in files.labels_alone],
    )


def _imageless(dataset: Dataset, label: Path, wanted: Path, ids: Mapping[int, int]) -> Scene:
    """A label map without an image. Its id has its whole path, as no image's has."""
    return Scene("_".join(label.relative_to(dataset.root).with_suffix("").parts), wanted, label, ids)


def _globs(dataset: Dataset) -> tuple[list[Scene], list[Scene], list[Scene]]:
    """The same, of the files that the data set's patterns name."""
    ids = id_table(dataset)
    labels = _matches(dataset, dataset.labels or "")
    if dataset.images is None:
        names = _names([label.path for label in labels])
        return [Scene(names[label.path], None, label.path, ids) for label in labels], [], []
    known = {label.path for label in labels}  # `*.png` may find `7.png` and its `7_mask.png`
    images = [image for image in _matches(dataset, dataset.images) if image.path not in known]
    if not images:
        raise UserError(f"{dataset.name}: 'images' {dataset.images!r} finds nothing but label maps; correct it")
    names = _names([image.path for image in images])
    pairs = paired(images, labels)
    if not pairs.pairs:
        raise UserError(
            f"{dataset.name}: no name of the {len(images):,} files of 'images' {dataset.images!r} belongs to one of the"
            f" {len(labels):,} of 'labels' {dataset.labels!r} ({images[0].path.name}, {labels[0].path.name}); image and"
            " label are paired by what the patterns leave open: write what differs into the patterns, or rename files"
        )
    scenes = [Scene(names[image.path], image.path, label.path, ids) for image, label in pairs.pairs]
    unlabeled = [
        Scene(names[image.path], image.path, _wanted(dataset, dataset.labels, image), ids) for image in pairs.images
    ]
    imageless = [
        _imageless(dataset, label.path, _wanted(dataset, dataset.images, label), ids) for label in pairs.labels
    ]
    return scenes, unlabeled, imageless


def _wanted(dataset: Dataset, pattern: str | None, match: Match) -> Path:
    """Where the partner of a file was looked for: the pattern, with the file's name in place of its only `*`."""
    pattern = pattern or ""
    return dataset.root / (pattern.replace("*", match.name) if pattern.count("*") == 1 else pattern)


def id_table(dataset: Dataset) -> Mapping[int, int]:
    """From what the label files of a `globs` data set hold to train ids."""
    if isinstance(dataset.ids, dict):
        return dataset.ids
    return CITYSCAPES_IDS if dataset.ids == "cityscapes" else TRAIN_IDS


def _matches(dataset: Dataset, pattern: str) -> list[Match]:
    found = matches(dataset.root, pattern)
    if not found:
        raise UserError(
            f"{dataset.name}: no file matches {pattern!r} under {dataset.root.absolute()}; correct the pattern or"
            " 'root'"
        )
    return found


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """Ids from paths: what lies below the folder that all share, joined with `_`."""
    common = Path(os.path.commonpath([path.parent for path in files]))
    return {path: "_".join(path.relative_to(common).with_suffix("").parts) for path in files}
