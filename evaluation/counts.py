"""What is counted on an image, kept in files beside the scores: all scores, intervals and tests are taken from it.

Without torch, so that tables load at once.
"""

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.schema import counts_file
from pipeline.data.labels import NUM_CLASSES
from pipeline.data.scores import Confusion
from pipeline.errors import UserError, one_line

BINS = 15
"""Bins of confidence, as in Guo et al., On Calibration of Modern Neural Networks, 2017."""
_DAMAGE_OF_ZIP = (zipfile.BadZipFile, zlib.error, struct.error)
_DAMAGE_OF_HEADER = (SyntaxError, tokenize.TokenError)
DAMAGE = (
    OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, *_DAMAGE_OF_ZIP, *_DAMAGE_OF_HEADER,
)  # fmt: skip
"""What reading a damaged npz file raises, by where the damage is: zip's table, a member, its header, its content.
NotImplementedError, for an unknown way of compression, is a RuntimeError; a flipped bit may make a file look encrypted,
which is one too. None of these is an interrupt."""


class PixelCounts(NamedTuple):
    """What is counted on an image, or the sum over many; stacked, there is one row per image in front.

    A ring holds the labeled px that lie in one boundary band but not in the next thinner one.
    """

    confusion: Confusion
    """(19,19) px per label class and predicted class."""
    ring_pixels: NDArray[np.int64]
    ring_wrong: NDArray[np.int64]
    """(R,) px per ring, and those predicted as another class."""
    bin_pixels: NDArray[np.int64]
    bin_right: NDArray[np.int64]
    bin_confidence: NDArray[np.float64]
    """(15,) px per bin of confidence, those that are right, the sum of their confidences; 0 where none was given."""

    def plus(self, other: "PixelCounts") -> "PixelCounts":
        """The sum of both."""
        return PixelCounts(
            self.confusion + other.confusion,
            self.ring_pixels + other.ring_pixels,
            self.ring_wrong + other.ring_wrong,
            self.bin_pixels + other.bin_pixels,
            self.bin_right + other.bin_right,
            self.bin_confidence + other.bin_confidence,
        )


def no_counts(rings: int) -> PixelCounts:
    """The counts of no image."""
    ring, bins = np.zeros(rings, np.int64), np.zeros(BINS, np.int64)
    return PixelCounts(np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64), ring, ring, bins, bins, bins.astype(np.float64))


def ratio(part: float, whole: float) -> float:
    """part / whole; NaN for a share of nothing."""
    return part / whole if whole else float("nan")


class ImageCounts(NamedTuple):
    """N scored images in the order of their scenes: their ids, conditions ("" for none) and stacked counts."""

    ids: NDArray[np.str_]
    conditions: NDArray[np.str_]
    confusion: NDArray[np.int64]
    """(N,19,19); this and what follows: see `PixelCounts`."""
    ring_pixels: NDArray[np.int64]
    ring_wrong: NDArray[np.int64]
    """(N,R)"""
    bin_pixels: NDArray[np.int64]
    bin_right: NDArray[np.int64]
    bin_confidence: NDArray[np.float64]
    """(N,15)"""

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "ImageCounts":
        """Some of the images, by index or by mask."""
        columns: list[NDArray[Any]] = [column[rows] for column in self]
        return ImageCounts(*columns)

    def where(self, condition: str) -> "ImageCounts":
        """The images of one condition."""
        return self.take(self.conditions == condition)

    def total(self) -> PixelCounts:
        """The counts of all images together."""
        return PixelCounts(*(column.sum(axis=0) for column in self[2:]))


def stack(rows: Sequence[tuple[str, str | None, PixelCounts]], rings: int) -> ImageCounts:
    """(id, condition, counts) per image -> columns. No row at all still gives columns of the right shapes."""
    empty: list[NDArray[Any]] = [np.zeros((0, *part.shape), part.dtype) for part in no_counts(rings)]
    columns: list[NDArray[Any]] = [np.array(part) for part in zip(*(c for _, _, c in rows), strict=True)] or empty
    ids = np.array([scene_id for scene_id, _, _ in rows], np.str_)
    conditions = np.array([condition or "" for _, condition, _ in rows], np.str_)
    return ImageCounts(ids, conditions, *columns)


def joined(parts: Sequence[ImageCounts]) -> ImageCounts:
    """All images of at least one part, in order."""
    return ImageCounts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def save_image_counts(images: ImageCounts, folder: Path, domain: str) -> None:
    """Writes the counts of a domain's images into an evaluation's folder; pixels per image fit in 32 bits."""
    path = counts_file(folder, domain)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **small_columns(images))


def read_image_counts(folder: Path, domain: str) -> ImageCounts:
    """The counts that an evaluation's folder has of a domain. UserError if there are none, or damaged ones."""
    path = counts_file(folder, domain)
    if not path.is_file():
        raise UserError(f"{path} not found: the evaluation knows no domain {domain!r} or is older; evaluate again")
    try:
        with np.load(path) as columns:
            return counts_of_columns(columns)
    except DAMAGE as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): delete its folder {folder}, evaluate again") from error


def small_columns(images: ImageCounts) -> dict[str, NDArray[Any]]:
    """The columns as they are written to files, by name."""
    columns = images._asdict()
    return {name: c.astype(np.int32) if c.dtype == np.int64 else c for name, c in columns.items()}


def counts_of_columns(columns: Mapping[str, NDArray[Any]]) -> ImageCounts:
    """The images in such columns, read from a file. ValueError where they are no counts of as many images."""
    loaded = [np.asarray(columns[name]) for name in ImageCounts._fields]
    wide: list[NDArray[Any]] = [column.astype(np.int64) if column.dtype == np.int32 else column for column in loaded]
    ids, conditions, _, rings = wide[:4]
    if not ids.shape == conditions.shape == (ids.size,) or {ids.dtype.kind, conditions.dtype.kind} != {"U"}:
        raise ValueError("wanted a name and a condition of each image")
    wanted = no_counts(rings.shape[1] if rings.ndim == 2 else 0)
    for name, column, part in zip(PixelCounts._fields, wide[2:], wanted, strict=True):
        if column.dtype != part.dtype or column.shape != (ids.size, *part.shape) or not (column >= 0).all():
            raise ValueError(f"{name} holds {column.dtype} of {column.shape}, wanted counts of {ids.size} images")
    return ImageCounts(*wide)
