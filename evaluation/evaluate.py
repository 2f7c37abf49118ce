"""Scores a segmenter on every domain: evaluation.json, every image's counts, some predictions as pictures.

Up to `UNIT` scenes of a domain are one unit: scored by whoever claims them first, and never twice however often the
evaluation is interrupted. When all are there, the scores are taken from their counts.
"""

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from evaluation.counts import ImageCounts, joined, ratio, save_image_counts, stack
from evaluation.inference import input_text
from evaluation.metrics import Scores
from evaluation.parts import ScoredPart, read_part
from evaluation.resizing import Size
from evaluation.schema import (
    FILE,
    Calibration,
    DomainScores,
    ErrorCurve,
    Evaluation,
    PlaceScores,
    ReliabilityBin,
    SkippedScene,
    prediction_file,
    write_record,
)
from evaluation.scoring import LoadPredict, Task, load_scorer
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene
from pipeline.data.scores import class_iou, mean_iou
from pipeline.errors import TryAgainError
from pipeline.files import file_stem
from pipeline.work.progress import Track
from pipeline.work.units import PARTS, WORK, Executor, Unit, make_all
from pipeline.work.workers import run

UNIT = 64
"""Scenes of a unit (ours): a process that dies loses no more, eight GPUs each get one of the 500 of Cityscapes' or
ACDC's validation, and the moment at its ends in which reading, predicting and counting do not overlap stays small."""
HERE = partial(run, most_on_cpu=1)
"""The local executor; without a GPU one process does, whose threads use all cores and which starts at once."""


def evaluate(
    load_predict: LoadPredict,
    domains: Mapping[str, Sequence[Scene]],
    config: EvaluationConfig,
    folder: Path,
    *,
    machine: Machine,
    progress: Track,
    execute: Executor = HERE,
) -> None:
    """Writes evaluation.json (`schema.Evaluation`), the counts of every image and the pictures into `folder`.

    An interrupted call continues: finished units are kept in `folder/.work`, which stays for the store to remove, and
    those that were damaged meanwhile are made again. The bytes do not depend on who scored (on one kind of machine):
    `execute` says who. The segmenter sees up to `machine.evaluation_batch` images of one size at once.
    """
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "parts", ignore_errors=True)  # what flexseg 0.1 left unfinished: nothing vouches for it
    units = {name: _split(name, scenes, config, folder) for name, scenes in domains.items()}
    every = [unit for part in units.values() for unit in part]
    load = partial(load_scorer, load_predict, config, machine.evaluation_batch)
    make_all(every, load, machine=machine, execute=execute, progress=progress, description="Scoring images")
    results = {name: _merged(name, part, config, folder) for name, part in units.items()}
    # Last, because an evaluation.json means that all the rest is there.
    write_record(Evaluation(band=config.band, domains=results), folder / FILE)


def _split(domain: str, scenes: Sequence[Scene], config: EvaluationConfig, folder: Path) -> list[Unit]:
    """The units of a domain, in order. They are named by it, as the order of the domains does not enter the key."""
    kept = _spread(scenes, config.keep_predictions)
    parts = [scenes[start : start + UNIT] for start in range(0, len(scenes), UNIT)]
    names = [f"{file_stem(domain)}-{k:05d}-of-{len(parts):05d}.npz" for k in range(len(parts))]
    tasks = [Task(domain, part, kept.intersection(scene.id for scene in part)) for part in parts]
    return [
        Unit(folder / WORK / PARTS / name, folder / WORK, task, len(task.scenes))
        for name, task in zip(names, tasks, strict=True)
    ]


def _read(unit: Unit, config: EvaluationConfig) -> ScoredPart | None:
    return read_part(unit.path, [scene.id for scene in unit.task.scenes], config.widths)


def _merged(domain: str, units: Sequence[Unit], config: EvaluationConfig, folder: Path) -> DomainScores:
    """Scores and skipped files of a domain; writes the counts of every image and the pictures."""
    counts: list[ImageCounts] = [stack([], len(config.widths))]
    sizes: set[Size] = set()
    skipped: list[SkippedScene] = []
    kept: list[str] = []
    for unit in units:
        part = _read(unit, config)
        if part is None:
            raise TryAgainError(f"{unit.path} was damaged since it was written: the same command makes it again")
        counts.append(part.counts)
        sizes |= part.sizes
        skipped += part.skipped
        kept += part.pictures
        _save_pictures(part, domain, folder)
    images = joined(counts)
    save_image_counts(images, folder, domain)
    conditions = sorted({*images.conditions.tolist()} - {""})
    return DomainScores(
        **dict(place_scores(images, config)),
        conditions={name: place_scores(images.where(name), config) for name in conditions},
        scale=input_text(config, domain, sizes),
        predictions=tuple(kept),
        skipped=tuple(skipped),
    )


def _save_pictures(part: ScoredPart, domain: str, folder: Path) -> None:
    for scene_id, png in part.pictures.items():
        path = prediction_file(folder, domain, scene_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)


def place_scores(images: ImageCounts, config: EvaluationConfig) -> PlaceScores:
    """All scores of some of a domain's images, from the sum of their counts."""
    scores = Scores(config.band, config.curve, images.total(), len(images.ids))
    iou = class_iou(scores.confusion)
    return PlaceScores(
        images=scores.images,
        confusion=tuple(tuple(row) for row in scores.confusion.tolist()),
        iou=_numbers(iou.tolist()),
        miou=_number(mean_iou(iou)),
        pixel_accuracy=_number(scores.pixel_accuracy),
        boundary_error=_number(scores.boundary_error),
        interior_error=_number(scores.interior_error),
        curve=ErrorCurve(
            px=tuple(scores.widths),
            boundary=_numbers(scores.boundary_errors()),
            interior=_numbers(scores.interior_errors()),
            share=_numbers(scores.boundary_shares()),
        ),
        calibration=_calibration(scores),
    )


def _calibration(scores: Scores) -> Calibration | None:
    """The calibration error and its bins; None where `predict` gave no confidences."""
    columns = zip(scores.counts.bin_pixels, scores.counts.bin_right, scores.counts.bin_confidence, strict=True)
    if scores.pixels and not scores.counts.bin_pixels.any():
        return None
    bins = tuple(
        ReliabilityBin(
            confidence=_number(ratio(total, pixels)), accuracy=_number(ratio(right, pixels)), pixels=int(pixels)
        )
        for pixels, right, total in columns
    )
    return Calibration(ece=_number(scores.calibration_error), bins=bins)


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def _numbers(values: Iterable[float]) -> tuple[float | None, ...]:
    return tuple(_number(value) for value in values)


def _spread(scenes: Sequence[Scene], wanted: int | str) -> frozenset[str]:
    """Ids of `wanted` scenes (or "all"), evenly spread."""
    count = len(scenes) if isinstance(wanted, str) else min(wanted, len(scenes))
    return frozenset(scenes[k].id for k in np.linspace(0, len(scenes) - 1, count).round().astype(int))
