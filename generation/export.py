"""A generated data set as the folders that HRDA-style code trains from (GTA's layout of DAFormer, HRDA, DGInStyle)."""

import io
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
from PIL import Image

from pipeline.data.alignment_scores import read_scores
from pipeline.data.labels import IGNORE, NUM_CLASSES
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.store.manifest import MANIFEST, canonical_digest, file_table, read_manifest
from pipeline.work.progress import Track, silent

RECORD = "export.json"
ALIGNMENT = "alignment"


def export(
    folder: Path,
    target: Path,
    minimum_alignment: float | None = None,
    *,
    scored: Path | None = None,
    progress: Track = silent,
) -> int:
    """Write the data set of `folder` to `target`; how many images it has there.

    `images/ID.png` and `labels/ID_labelTrainIds.png` hold the data set's own bytes. Beside them lie the statistics
    that DAFormer's rare-class sampling reads: `sample_class_stats.json`, `sample_class_stats_dict.json` and
    `samples_with_class.json` (px per class and label file, files relative to `target`). Images whose alignment is below
    `minimum_alignment` are left out; `scored` is the folder of the data set's `alignment` artifact, without which its
    own columns count. An interrupted export continues. Raises UserError where `folder` is no generated data set, where
    `target` holds something else, and where no image is left.
    """
    shards = sorted((folder / "data").glob("*.parquet"))
    if not shards:
        raise UserError(f"{folder} holds no data/*.parquet: give the folder or the key of a generated data set")
    chosen = _chosen(folder, scored, minimum_alignment)
    kept = int(np.count_nonzero(chosen))
    _claim(target, {"data": _digest(folder), "minimum_alignment": minimum_alignment, "images": kept})
    for name in ("images", "labels"):
        (target / name).mkdir(exist_ok=True)
    statistics: dict[str, dict[str, int]] = {}
    rows = itertools.compress((row for shard in shards for row in _rows(shard)), chosen)
    for row in progress(rows, total=kept, description="Exporting images"):
        image, label = Path(row["image"]["path"]).name, Path(row["label"]["path"]).name
        _write(target / "images" / image, row["image"]["bytes"])
        _write(target / "labels" / label, row["label"]["bytes"])
        statistics[f"labels/{label}"] = class_statistics(row["label"]["bytes"])
    _write_statistics(target, statistics)
    return kept


def class_statistics(label: bytes) -> dict[str, int]:
    """Px per class that occurs in a label PNG, by train id."""
    with Image.open(io.BytesIO(label)) as image:
        pixels = np.bincount(np.asarray(image).ravel(), minlength=IGNORE + 1)[:NUM_CLASSES]
    return {str(train_id): int(count) for train_id, count in enumerate(pixels) if count}


def _chosen(folder: Path, scored: Path | None, minimum: float | None) -> np.ndarray:
    """Which of the data set's images are exported, (N,) bool."""
    if minimum is None:
        return np.ones(pyarrow.dataset.dataset(folder / "data", format="parquet").count_rows(), bool)
    scores = read_scores(folder, scored).get(ALIGNMENT)
    if scores is None:
        raise UserError(f"{folder} has no column {ALIGNMENT!r} to filter by: leave out --minimum-alignment")
    chosen = np.asarray(scores >= minimum)
    if not chosen.any():
        raise UserError(
            f"no image of {folder} has an alignment of {minimum:g} or more, the best has {scores.max():.3f}: lower"
            " --minimum-alignment"
        )
    return chosen


def _rows(shard: Path) -> list[dict[str, Any]]:
    return list(pyarrow.parquet.read_table(shard, columns=["image", "label"]).to_pylist())


def _digest(folder: Path) -> str:
    """What stands for the images: the sha256 of their files, from the manifest where there is one."""
    if (folder / MANIFEST).is_file():
        files = read_manifest(folder).model_dump()["files"]
        return canonical_digest({name: entry for name, entry in files.items() if name.startswith("data/")})
    return canonical_digest({f"data/{name}": entry for name, entry in file_table(folder / "data").items()})


def _claim(target: Path, record: Mapping[str, Any]) -> None:
    """Write down what `target` is to hold. Raises UserError where it holds another export, or anything else."""
    if target.exists() and not target.is_dir():
        raise UserError(f"--to {target} is a file: name a folder")
    if (target / RECORD).is_file():
        if json.loads((target / RECORD).read_text(encoding="utf-8")) != record:
            raise UserError(f"--to {target} holds another export (see its {RECORD}): name a new folder")
        return
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"--to {target} is not empty and no export of ours: name a new folder")
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / RECORD, record)


def _write(path: Path, content: bytes) -> None:
    """Write a file unless an earlier call has; it appears under its name only when it is whole."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_bytes(content)
        os.replace(partial, path)


def _write_statistics(target: Path, statistics: Mapping[str, Mapping[str, int]]) -> None:
    """The three files as DAFormer's tools/convert_datasets/gta.py lays them out."""
    files: dict[str, list[tuple[str, int]]] = {}
    for file, pixels in statistics.items():
        for train_id, count in pixels.items():
            files.setdefault(train_id, []).append((file, count))
    contents = {
        "sample_class_stats.json": [{**pixels, "file": file} for file, pixels in statistics.items()],
        "sample_class_stats_dict.json": statistics,
        "samples_with_class.json": files,
    }
    for name, content in contents.items():
        (target / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
