"""Parts of an evaluation: one file per unit, from which the evaluation is put together when all are there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.counts import DAMAGE, ImageCounts, counts_of_columns, small_columns
from evaluation.resizing import Size
from evaluation.schema import SkippedScene


class ScoredPart(NamedTuple):
    """What scoring some scenes of a domain gives."""

    counts: ImageCounts
    sizes: set[Size]
    """Sizes of the images, px."""
    pictures: Mapping[str, bytes]
    """Predictions that are kept, as PNG files, by scene id."""
    skipped: Sequence[SkippedScene]


def write_part(part: ScoredPart, path: Path) -> None:
    """Writes one file (NumPy's npz), the same bytes for the same part."""
    about = {
        "sizes": sorted(part.sizes),
        "pictures": list(part.pictures),
        "skipped": [[scene.id, scene.reason] for scene in part.skipped],
    }
    pictures = {f"picture{k}": np.frombuffer(png, np.uint8) for k, png in enumerate(part.pictures.values())}
    with path.open("wb") as file:  # a name would get another ending
        np.savez_compressed(file, allow_pickle=False, about=json.dumps(about), **small_columns(part.counts), **pictures)


def read_part(path: Path, scenes: Sequence[str], widths: Sequence[int]) -> ScoredPart | None:
    """What `write_part` has written about these scenes (their ids), scored with these widths of the boundary band.

    None where the file is damaged or is about something else: the part has to be made again. Every member of a zip
    file carries a checksum, so a flipped bit is seen; what the checksums leave out is compared with what is wanted.
    """
    try:
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            part = ScoredPart(
                counts_of_columns(file),
                {(int(height), int(width)) for height, width in about["sizes"]},
                {str(scene): file[f"picture{k}"].tobytes() for k, scene in enumerate(about["pictures"])},
                [SkippedScene(id=name, reason=reason) for name, reason in about["skipped"]],
            )
    except DAMAGE:
        return None
    return part if _is_about(part, scenes, widths) else None


def _is_about(part: ScoredPart, scenes: Sequence[str], widths: Sequence[int]) -> bool:
    """Whether the part holds every scene once, scored or skipped, in order, and as many widths."""
    scored = part.counts.ids.tolist()
    skipped = [scene.id for scene in part.skipped]
    left = set(skipped)
    return (
        scored == [scene for scene in scenes if scene not in left]
        and skipped == [scene for scene in scenes if scene in left]
        and set(part.pictures) <= set(scored)
        and part.counts.ring_pixels.shape[1] == len(widths)
    )
