"""Scoring a finished data set by how well its images follow their label maps, and publishing it with the scores."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet

from generation.card import PICTURE, draw_histogram, write_card
from generation.plan import read_plan
from pipeline.config.generation import AlignmentConfig, GenerationConfig
from pipeline.config.machine import Machine
from pipeline.data.alignment_scores import SCORE_COLUMNS, SCORES, read_scores, write_scores
from pipeline.data.generated_rows import GeneratedDataSet, data_files, decode_pair, row_name, rows_of
from pipeline.files import folder_written_whole, unfinished_folder, write_json
from pipeline.store.manifest import MANIFEST, read_manifest
from pipeline.work.progress import Track, silent
from pipeline.work.threads import one_thread
from pipeline.work.units import PARTS, WORK, Executor, Make, Unit, make_all
from pipeline.work.workers import run

HERE = partial(run, most_on_cpu=1)
"""The local executor; without a GPU one process, as another costs more than what it would score."""
PROVENANCE = "provenance.json"
"""What a published data set was made from: its artifact's manifest."""


def score_data_set(
    config: AlignmentConfig,
    data_set: Path,
    folder: Path,
    *,
    machine: Machine,
    progress: Track = silent,
    execute: Executor = HERE,
) -> None:
    """Writes `alignment.parquet`, the scores of a data set's images, and their histogram `alignment.png` into `folder`.

    One unit of work per shard; an interrupted call continues with what lies in `folder/.work`, which stays for the
    store to remove. UserError where `data_set` holds no data set, where an
    image cannot be read, or where the detector's weights are missing.
    """
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    data = GeneratedDataSet(data_set)
    files = zip(data.files, data.counts, strict=True)
    units = [Unit(work / PARTS / f"{file.name}.npy", work, file, max(1, count)) for file, count in files]
    load = partial(load_aligner, config)
    make_all(units, load, machine=machine, execute=execute, progress=progress, description="Scoring alignment")
    scores = np.concatenate([np.load(unit.path) for unit in units])
    write_scores(scores, folder / SCORES)
    draw_histogram(scores[:, 0], scores[:, 1], folder / PICTURE)


def load_aligner(config: AlignmentConfig, device: str) -> Make:
    """Loads the detector; what comes back writes the scores (N, 2) float32 of one parquet file's images."""
    from generation.alignment import Alignment, alignment, edge_detector

    edges = edge_detector(config, device)

    def score(shard: Path, path: Path) -> Iterator[None]:
        scores: list[Alignment] = []
        for row in rows_of(shard, shard):
            image, label = decode_pair(row.image, row.label, row_name(shard, row.number))
            with one_thread():
                scores.append(alignment(edges(image), label, config.radius))
            yield
        with path.open("wb") as file:
            np.save(file, np.array(scores, np.float32).reshape(-1, len(SCORE_COLUMNS)))

    return score


def publish_scored(
    generation: GenerationConfig, alignment: AlignmentConfig, data_set: Path, scored: Path, target: Path
) -> None:
    """Copies a data set to the new folder `target`, with the scores of `scored` as columns and on its card.

    `target` appears by one rename, when it is whole; what an interrupted call left beside it is written anew.
    """
    shutil.rmtree(unfinished_folder(target), ignore_errors=True)
    with folder_written_whole(target) as unfinished:
        shutil.copytree(data_set, unfinished, ignore=shutil.ignore_patterns("*.parquet", MANIFEST), dirs_exist_ok=True)
        if (data_set / MANIFEST).is_file():  # whose table of files does not hold for the copy
            write_json(unfinished / PROVENANCE, {**read_manifest(data_set).model_dump(), "files": None})
        scores = read_scores(data_set, scored)
        _with_columns(data_set, unfinished, scores)
        shutil.copyfile(scored / PICTURE, unfinished / PICTURE)
        both = np.stack([scores[name] for name in SCORE_COLUMNS], axis=1)
        write_card(generation, read_plan(data_set), unfinished, alignment=alignment, scores=both)


def _with_columns(data_set: Path, target: Path, scores: dict[str, np.ndarray]) -> None:
    from generation.samples import write_shard  # slow to import

    start = 0
    for shard in data_files(data_set):
        rows = pyarrow.parquet.read_table(shard).to_pylist()
        for k, row in enumerate(rows, start):
            row |= {name: float(values[k]) for name, values in scores.items()}
        start += len(rows)
        write_shard(rows, target / "data" / shard.name)
