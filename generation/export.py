"""A generated data set as the folders that HRDA-style code trains from (GTA's layout of DAFormer, HRDA, DGInStyle)."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.data.alignment_scores import read_scores
from pipeline.data.generated_rows import GeneratedDataSet, GeneratedRow
from pipeline.data.labels import NUM_CLASSES
from pipeline.data.pictures import png
from pipeline.errors import UserError, one_line
from pipeline.files import (
    check_new_folder,
    check_output,
    file_stem,
    folder_written_whole,
    unfinished_folder,
    write_json,
    written_whole,
)
from pipeline.store.manifest import MANIFEST, canonical_digest, file_table, read_manifest
from pipeline.work.progress import Track, silent

RECORD, LAYOUT = "export.json", 2
"""What an export holds is written down in it; version 2 of its layout appears only when it is whole."""
PNG = b"\x89PNG\r\n\x1a\n"
EXIF = b"eXIf"
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

    `images/ID.png` and `labels/ID_labelTrainIds.png` hold the data set's own bytes (images of other formats as PNG).
    Beside them lie the statistics that DAFormer's rare-class sampling reads: `sample_class_stats.json`,
    `sample_class_stats_dict.json` and `samples_with_class.json` (px per class and label file, files relative to
    `target`). Images whose alignment is below `minimum_alignment` are left out; `scored` is the folder of the data
    set's `alignment` artifact, without which its own columns count. `target` appears when all is written; an
    interrupted export continues. UserError: `folder` is no generated data set or has a row that is none, `target` holds
    something else or cannot be written, no image is left.
    """
    check_output(target, "--to")
    dataset = GeneratedDataSet(folder)
    kept = _kept(dataset, scored, minimum_alignment)
    record = {
        "layout": LAYOUT, "data": _digest(folder), "minimum_alignment": minimum_alignment, "images": int(kept.sum()),
    }  # fmt: skip
    if _is_there(target, record):
        return int(kept.sum())
    check_new_folder(target, "--to")
    _begin(unfinished_folder(target), record)
    try:
        with folder_written_whole(target) as unfinished:
            rows = (row for row in dataset.rows() if kept[row.number])
            return _write(dataset, progress(rows, total=int(kept.sum()), description="Exporting images"), unfinished)
    except OSError as error:
        raise UserError(
            f"--to {target}: the export stopped ({one_line(error)}); what is written waits in"
            f" {unfinished_folder(target)}: make room and run the same command again"
        ) from error


def _write(dataset: GeneratedDataSet, rows: Iterator[GeneratedRow], folder: Path) -> int:
    """Images, labels and statistics; how many images. Every row is decoded, so that nothing broken is passed on."""
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    statistics: dict[str, dict[str, int]] = {}
    for row in rows:
        image, label = dataset.decoded(row)
        stem = _stem(row, statistics)
        file = folder / "images" / f"{stem}.png"
        if not file.exists():  # else an earlier call has written it
            with written_whole(file, durable=False) as unfinished:
                unfinished.write_bytes(row.image if _is_plain_png(row.image) else png(image))
        name = _label_file(stem)
        if not (folder / name).exists():
            with written_whole(folder / name, durable=False) as unfinished:
                unfinished.write_bytes(row.label)
        statistics[name] = pixels_per_class(label)
    _write_statistics(folder, statistics)
    return len(statistics)


def pixels_per_class(label: np.ndarray) -> dict[str, int]:
    """Px per class that occurs in a label map, by train id."""
    pixels = np.bincount(label.ravel(), minlength=NUM_CLASSES)[:NUM_CLASSES]
    return {str(train_id): int(count) for train_id, count in enumerate(pixels) if count}


def _label_file(stem: str) -> str:
    return f"labels/{stem}_labelTrainIds.png"


def _stem(row: GeneratedRow, taken: Mapping[str, object]) -> str:
    """A name for the row's files: its image's own, made safe; with the row's number where it has none or shares it."""
    stem = file_stem(PurePosixPath(row.image_name or "").stem)
    number = f"{row.number:06d}"
    stem = stem or number
    while _label_file(stem) in taken:
        stem = f"{stem}-{number}"
    return stem


def _is_plain_png(content: bytes) -> bool:
    """Whether others would read the pixels of a picture file as they were checked: a PNG that is not to be turned."""
    return content.startswith(PNG) and EXIF not in content


def _kept(dataset: GeneratedDataSet, scored: Path | None, minimum: float | None) -> np.ndarray:
    """(N,) bool: which rows are exported."""
    if not len(dataset):
        raise UserError(f"{dataset.folder} holds no image: nothing to export")
    if minimum is None:
        return np.ones(len(dataset), bool)
    scores = read_scores(dataset.folder, scored).get(ALIGNMENT)
    if scores is None:
        raise UserError(f"{dataset.folder} has no column {ALIGNMENT!r} to filter by: leave out --minimum-alignment")
    kept = np.asarray(scores >= minimum)
    if not kept.any():
        raise UserError(
            f"no image of {dataset.folder} has an alignment of {minimum:g} or more, the best has {scores.max():.3f}:"
            " lower --minimum-alignment"
        )
    return kept


def _digest(folder: Path) -> str:
    """What stands for the images: the sha256 of their files, from the manifest where there is one."""
    if (folder / MANIFEST).is_file():
        files = read_manifest(folder).model_dump()["files"]
        return canonical_digest({name: entry for name, entry in files.items() if name.startswith("data/")})
    return canonical_digest({f"data/{name}": entry for name, entry in file_table(folder / "data").items()})


def _is_there(target: Path, record: Mapping[str, Any]) -> bool:
    """Whether `target` is this export, finished. UserError where it is another one, or anything else."""
    if target.exists() and not target.is_dir():
        raise UserError(f"--to {target} is a file: name a folder")
    if (target / RECORD).is_file():
        if _record(target) != record:
            raise UserError(f"--to {target} holds another export (see its {RECORD}): name a new folder")
        return True
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"--to {target} is not empty and no export of ours: name a new folder")
    return False


def _begin(unfinished: Path, record: Mapping[str, Any]) -> None:
    """Write down what the unfinished folder is to hold; remove what another export had begun there."""
    if unfinished.exists() and _record(unfinished) != record:
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True, exist_ok=True)
    write_json(unfinished / RECORD, record)


def _record(folder: Path) -> Any:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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
