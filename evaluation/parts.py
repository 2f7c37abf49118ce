"""Parts of an evaluation: one file per unit, from which the evaluation is put together when all are there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.image_counts import Images, images_of, small_columns
from evaluation.inference import Size


class Skipped(NamedTuple):
    """A scene that could not be used, and why in one line."""

    id: str
    reason: str


class Part(NamedTuple):
    """What scoring some scenes of a domain gives."""

    images: Images
    sizes: set[Size]
    """Of the images, px."""
    pictures: Mapping[str, bytes]
    """Predictions that are kept, as PNG files, by scene id."""
    skipped: Sequence[Skipped]


def write_part(part: Part, path: Path) -> None:
    """Writes one file (NumPy's npz), the same bytes for the same part."""
    about = {"sizes": sorted(part.sizes), "pictures": list(part.pictures), "skipped": part.skipped}
    pictures = {f"picture{k}": np.frombuffer(png, np.uint8) for k, png in enumerate(part.pictures.values())}
    with path.open("wb") as file:  # a name would get another ending
        np.savez_compressed(file, allow_pickle=False, about=json.dumps(about), **small_columns(part.images), **pictures)


def read_part(path: Path) -> Part:
    """What `write_part` has written."""
    with np.load(path) as file:
        about = json.loads(str(file["about"]))
        return Part(
            images_of(file),
            {(height, width) for height, width in about["sizes"]},
            {scene_id: file[f"picture{k}"].tobytes() for k, scene_id in enumerate(about["pictures"])},
            [Skipped(*item) for item in about["skipped"]],
        )
