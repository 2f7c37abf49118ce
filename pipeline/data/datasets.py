"""Labeled data sets on disk: finding the files of each layout, checking them, and reading them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.config.data import Dataset
from pipeline.data import layouts
from pipeline.data.image_files import image_size, read_pixels
from pipeline.data.labels import CITYSCAPES_IDS, IGNORE, NUM_CLASSES, TRAIN_IDS, load_label_map
from pipeline.errors import UserError
from pipeline.store.manifest import canonical_digest
from pipeline.toytown import TARGETS
from pipeline.work.progress import Track, silent


@dataclass(frozen=True)
class Scene:
    """One labeled picture: files, not pixels.

    `id` is unique in its data set and fit for a file name, `image` is None where a data set is label maps only,
    `ids` is the table from the label file's values to train ids, `condition` the weather where a layout tells it.
    """

    id: str
    image: Path | None
    label: Path
    ids: Mapping[int, int]
    condition: str | None = None


def toytown_datasets(folder: Path) -> tuple[Dataset, tuple[Dataset, ...]]:
    """Source and targets of the world that `pipeline.toytown` rendered into `folder`."""
    source = Dataset(name="source", root=folder / "source", layout="gta")
    return source, tuple(Dataset(name=name, root=folder / "targets" / name, layout="cityscapes") for name in TARGETS)


def find_scenes(dataset: Dataset, *, incomplete: bool = False) -> list[Scene]:
    """The scenes of a data set, sorted by id. UserError: a missing folder, no files, an image without its label.

    Where `incomplete`, an image without its label stays in, for whoever reads the scenes to skip it and say so.
    """
    if not dataset.root.is_dir():
        raise UserError(f"{dataset.name}: folder {dataset.root.absolute()} not found; mend 'root' of this data set")
    found = _globs(dataset) if dataset.layout == "globs" else _layout(dataset, incomplete=incomplete)
    scenes = sorted(found, key=lambda scene: scene.id)
    for first, second in pairwise(scenes):
        if first.id == second.id:
            raise UserError(
                f"{dataset.name}: {first.label} and {second.label} give the same id {first.id!r}; rename one"
            )
    taken = scenes[slice(*dataset.take)]
    if not taken:
        raise UserError(
            f"{dataset.name}: 'take' {list(dataset.take)} leaves none of its {len(scenes)} scenes; widen it"
        )
    return taken


def check_pair(scene: Scene) -> None:
    """UserError unless image and label have the same size (read from the headers alone)."""
    if scene.image is not None and not same_size(scene):
        image, label = image_size(scene.image), image_size(scene.label)
        raise UserError(
            f"sizes differ: image {scene.image} is {image[1]}x{image[0]} px,"
            f" its label {scene.label} is {label[1]}x{label[0]} px; mend or remove the pair"
        )


def same_size(scene: Scene) -> bool:
    """Whether image and label have the same size, by their headers. UserError if there is no image or no reading it."""
    if scene.image is None:
        raise UserError(f"{scene.id} has a label map but no image: set 'images' of its data set")
    return image_size(scene.image) == image_size(scene.label)


def fingerprint(scenes: Iterable[Scene]) -> str:
    """Hex sha256 of ids, id tables, file names, sizes and modification times: changes when the data set does.

    Contents are not read (GTA has 25,000 large files); folders above the files do not count, so a data set may move.
    """
    records = [
        [scene.id, scene.condition, sorted(scene.ids.items()), _file_record(scene.image), _file_record(scene.label)]
        for scene in scenes
    ]
    return canonical_digest(records)


def load_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an 8-bit color or gray image. UserError if it cannot be read whole."""
    return read_pixels(path, ("RGB", "RGBA", "L", "P"), "an 8-bit color or gray image", convert="RGB")


def load_label(path: Path, ids: Mapping[int, int]) -> np.ndarray:
    """(H, W) uint8 train ids, read-only; see `load_label_map`."""
    return load_label_map(path, ids)


def class_pixels(scenes: Sequence[Scene], progress: Track = silent) -> np.ndarray:
    """(N, 19) int64: how many px of each class each scene's label map has. Reads, and so checks, every label map."""
    pixels = np.zeros((len(scenes), NUM_CLASSES), np.int64)
    for row, scene in zip(pixels, progress(scenes, total=len(scenes), description="reading label maps"), strict=True):
        row += np.bincount(load_label(scene.label, scene.ids).ravel(), minlength=IGNORE + 1)[:NUM_CLASSES]
    return pixels


def _file_record(path: Path | None) -> list[str | int] | None:
    if path is None:
        return None
    if not path.exists():
        return [path.name]
    status = os.stat(path)
    return [path.name, status.st_size, status.st_mtime_ns]


def _layout(dataset: Dataset, *, incomplete: bool) -> list[Scene]:
    """The scenes of a layout that `pipeline.data.layouts` knows."""
    _require_folders(dataset, *layouts.tops(dataset.layout, dataset.split))
    found = list(layouts.find(dataset.layout, dataset.root, dataset.split))
    if not found:
        top = dataset.root.absolute() / layouts.tops(dataset.layout, dataset.split)[0]
        raise UserError(
            f"{dataset.name}: no *{layouts.LAYOUTS[dataset.layout].image_end} of split '{dataset.split}' under {top};"
            " mend 'root', 'split' or 'layout' of this data set"
        )
    return [_with_label(dataset, item, incomplete=incomplete) for item in found]


def _globs(dataset: Dataset) -> list[Scene]:
    """The sorted files of both patterns, paired in that order."""
    ids = _id_table(dataset)
    labels = _files(dataset, dataset.labels or "")
    if dataset.images is None:
        return [Scene(name, None, label, ids) for name, label in zip(_names(labels), labels, strict=True)]
    images = _files(dataset, dataset.images)
    if len(images) != len(labels):
        raise UserError(
            f"{dataset.name}: {len(images)} files match 'images' {dataset.images!r} but {len(labels)} match 'labels'"
            f" {dataset.labels!r} under {dataset.root.absolute()}; the patterns must give equally many"
        )
    return [Scene(name, image, label, ids) for name, image, label in zip(_names(images), images, labels, strict=True)]


def _with_label(dataset: Dataset, found: layouts.Found, *, incomplete: bool) -> Scene:
    for label, ids in found.labels:
        if label.is_file():
            return Scene(found.name, found.image, label, ids, found.condition)
    if incomplete:
        return Scene(found.name, found.image, *found.labels[0], found.condition)
    wanted = " or ".join(str(label) for label, _ in found.labels)
    raise UserError(
        f"{dataset.name}: image {found.image} has no label, wanted {wanted}; add the label or remove the image"
    )


def _id_table(dataset: Dataset) -> Mapping[int, int]:
    if isinstance(dataset.ids, dict):
        wrong = {
            train_id for train_id in dataset.ids.values() if train_id != IGNORE and not 0 <= train_id < NUM_CLASSES
        }
        if wrong:
            raise UserError(
                f"{dataset.name}: 'ids' maps to {sorted(wrong)}, wanted train ids 0 to 18, or 255 for ignore"
            )
        return dataset.ids
    return CITYSCAPES_IDS if dataset.ids == "cityscapes" else TRAIN_IDS


def _require_folders(dataset: Dataset, *names: str) -> None:
    for name in names:
        if not (dataset.root / name).is_dir():
            raise UserError(
                f"{dataset.name}: folder {(dataset.root / name).absolute()} not found;"
                f" layout '{dataset.layout}' wants it (for another layout use 'globs')"
            )


def _files(dataset: Dataset, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute() or not pattern:
        raise UserError(f"{dataset.name}: pattern {pattern!r} must be relative to 'root'")
    files = sorted(path for path in dataset.root.glob(pattern) if path.is_file())
    if not files:
        raise UserError(
            f"{dataset.name}: no file matches {pattern!r} under {dataset.root.absolute()}; mend the pattern or 'root'"
        )
    return files


def _names(files: Sequence[Path]) -> list[str]:
    """Unique ids from paths: what lies below the folder that all share, joined with `_`."""
    common = Path(os.path.commonpath([path.parent for path in files]))
    return ["_".join(path.relative_to(common).with_suffix("").parts) for path in files]
