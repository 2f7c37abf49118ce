"""The counts of every scored image, kept beside the scores: what intervals, tests and comparisons are computed from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import Counts, no_counts
from pipeline.errors import UserError


class Images(NamedTuple):
    """N scored images in the order of their scenes: their ids, conditions ("" for none) and stacked counts."""

    ids: NDArray[np.str_]
    conditions: NDArray[np.str_]
    confusion: NDArray[np.int64]
    """(N,19,19); this and what follows: see `metrics.Counts`."""
    ring_pixels: NDArray[np.int64]
    ring_wrong: NDArray[np.int64]
    """(N,R)"""
    bin_pixels: NDArray[np.int64]
    bin_right: NDArray[np.int64]
    bin_confidence: NDArray[np.float64]
    """(N,15)"""

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Images":
        """Some of the images, by index or by mask."""
        columns: list[NDArray[Any]] = [column[rows] for column in self]
        return Images(*columns)

    def where(self, condition: str) -> "Images":
        """The images of one condition."""
        return self.take(self.conditions == condition)

    def total(self) -> Counts:
        """The counts of all images together."""
        return Counts(*(column.sum(axis=0) for column in self[2:]))


def stack(rows: Sequence[tuple[str, str | None, Counts]], rings: int) -> Images:
    """(id, condition, counts) per image -> columns. No row at all still gives columns of the right shapes."""
    empty: list[NDArray[Any]] = [np.zeros((0, *part.shape), part.dtype) for part in no_counts(rings)]
    columns: list[NDArray[Any]] = [np.array(part) for part in zip(*(c for _, _, c in rows), strict=True)] or empty
    ids = np.array([scene_id for scene_id, _, _ in rows], np.str_)
    conditions = np.array([condition or "" for _, condition, _ in rows], np.str_)
    return Images(ids, conditions, *columns)


def joined(parts: Sequence[Images]) -> Images:
    """All images of at least one part, in order."""
    return Images(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def save_images(images: Images, folder: Path, domain: str) -> None:
    """Writes `folder/images/<domain>.npz`; pixels per image fit in 32 bits."""
    path = folder / "images" / f"{domain}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **small_columns(images))


def read_images(folder: Path, domain: str) -> Images:
    """The images that an evaluation's folder has of a domain. UserError if it has none of that name."""
    path = folder / "images" / f"{domain}.npz"
    if not path.is_file():
        raise UserError(f"{path} not found: the evaluation knows no domain {domain!r} or is older; evaluate again")
    with np.load(path) as columns:
        return images_of(columns)


def small_columns(images: Images) -> dict[str, NDArray[Any]]:
    """The columns as they are written to files, by name."""
    columns = images._asdict()
    return {name: c.astype(np.int32) if c.dtype == np.int64 else c for name, c in columns.items()}


def images_of(columns: Mapping[str, NDArray[Any]]) -> Images:
    """The images in such columns, read from a file."""
    loaded = [columns[name] for name in Images._fields]
    wide: list[NDArray[Any]] = [column.astype(np.int64) if column.dtype == np.int32 else column for column in loaded]
    return Images(*wide)
