"""Scores a segmenter on every domain: evaluation.json, every image's counts, some predictions as pictures.

Up to `UNIT` scenes of a domain are one unit: scored by whoever claims them first, and never twice however often the
evaluation is interrupted. When all are there, the scores are taken from their counts.
"""

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from evaluation.image_counts import Images, joined, save_images, stack
from evaluation.inference import Size, input_text
from evaluation.metrics import Scores, share
from evaluation.parts import Part, Skipped, read_part
from evaluation.scoring import LoadPredict, Task, load_scorer
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene
from pipeline.data.scores import class_iou, mean_iou
from pipeline.files import write_json
from pipeline.work.progress import Track
from pipeline.work.units import WORK, Executor, Unit, make_all
from pipeline.work.workers import run

PARTS = "parts"
UNIT = 64
"""Scenes of a unit (ours): a process that dies loses no more, eight GPUs each get one of the 500 of Cityscapes' or
ACDC's validation, and the moment at its ends in which reading, predicting and counting do not overlap stays small."""
ON_CPU = partial(run, most_on_cpu=1)
"""The local executor; without a GPU one process does, whose threads use all cores and which starts at once."""


def evaluate(
    load_predict: LoadPredict,
    domains: Mapping[str, Sequence[Scene]],
    config: EvaluationConfig,
    folder: Path,
    *,
    machine: Machine,
    progress: Track,
    execute: Executor = ON_CPU,
) -> None:
    """Writes `folder/evaluation.json`, `folder/images/<domain>.npz` and `folder/predictions/<domain>/<scene id>.png`.

    An interrupted call continues: finished units are kept in `folder/parts` until all are. The bytes do not depend on
    who scored (on one kind of machine): `execute` says who. The segmenter sees up to `machine.evaluation_batch` images
    of one size at once.
    """
    file = folder / "evaluation.json"
    if not file.exists():
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        units = {name: _split(name, scenes, config, folder) for name, scenes in domains.items()}
        load = partial(load_scorer, load_predict, config, machine.evaluation_batch)
        every = [unit for part in units.values() for unit in part]
        make_all(every, load, machine=machine, execute=execute, progress=progress, description="Scoring images")
        results = {name: _merged(name, part, config, folder) for name, part in units.items()}
        write_json(file, {"band": config.band, "domains": results})
    for finished in (PARTS, WORK):
        shutil.rmtree(folder / finished, ignore_errors=True)


def _split(domain: str, scenes: Sequence[Scene], config: EvaluationConfig, folder: Path) -> list[Unit]:
    """The units of a domain, in order. They are named by it, as the order of the domains does not enter the key."""
    kept = _spread(scenes, config.keep_predictions)
    parts = [scenes[start : start + UNIT] for start in range(0, len(scenes), UNIT)]
    names = [f"{quote(domain, safe='')}-{k:05d}-of-{len(parts):05d}.npz" for k in range(len(parts))]
    tasks = [Task(domain, part, kept.intersection(scene.id for scene in part)) for part in parts]
    return [
        Unit(folder / PARTS / name, folder / WORK, task, len(task.scenes))
        for name, task in zip(names, tasks, strict=True)
    ]


def _merged(domain: str, units: Sequence[Unit], config: EvaluationConfig, folder: Path) -> dict[str, Any]:
    """Scores and skipped files of a domain, ready for JSON; writes the counts of every image and the pictures."""
    counts: list[Images] = [stack([], len(config.widths))]
    sizes: set[Size] = set()
    skipped: list[Skipped] = []
    kept: list[str] = []
    for unit in units:
        part = read_part(unit.path)
        counts.append(part.images)
        sizes |= part.sizes
        skipped += part.skipped
        kept += part.pictures
        _save_pictures(part, folder / "predictions" / domain)
    images = joined(counts)
    save_images(images, folder, domain)
    return {
        **_scores(images, config),
        "conditions": {name: _scores(images.where(name), config) for name in sorted({*images.conditions} - {""})},
        "scale": input_text(config, domain, sizes),
        "predictions": kept,
        "skipped": [item._asdict() for item in skipped],
    }


def _save_pictures(part: Part, folder: Path) -> None:
    for scene_id, png in part.pictures.items():
        path = folder / f"{scene_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)


def _scores(images: Images, config: EvaluationConfig) -> dict[str, Any]:
    """All scores of some of the domain's images."""
    scores = Scores(config.band, config.curve, images.total(), len(images.ids))
    iou = class_iou(scores.confusion)
    return {
        "images": scores.images,
        "confusion": scores.confusion.tolist(),
        "iou": _numbers(iou.tolist()),
        "miou": _number(mean_iou(iou)),
        "pixel_accuracy": _number(scores.pixel_accuracy),
        "boundary_error": _number(scores.boundary_error),
        "interior_error": _number(scores.interior_error),
        "curve": {
            "px": scores.widths,
            "boundary": _numbers(scores.boundary_errors()),
            "interior": _numbers(scores.interior_errors()),
            "share": _numbers(scores.boundary_shares()),
        },
        "calibration": _calibration(scores),
    }


def _calibration(scores: Scores) -> dict[str, Any] | None:
    """The calibration error and its bins; None where `predict` gave no confidences."""
    columns = zip(scores.counts.bin_pixels, scores.counts.bin_right, scores.counts.bin_confidence, strict=True)
    if scores.pixels and not scores.counts.bin_pixels.any():
        return None
    bins = [
        {"confidence": _number(share(total, pixels)), "accuracy": _number(share(right, pixels)), "pixels": int(pixels)}
        for pixels, right, total in columns
    ]
    return {"ece": _number(scores.calibration_error), "bins": bins}


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _spread(scenes: Sequence[Scene], wanted: int | str) -> frozenset[str]:
    """Ids of `wanted` scenes (or "all"), evenly spread."""
    count = len(scenes) if isinstance(wanted, str) else min(wanted, len(scenes))
    return frozenset(scenes[k].id for k in np.linspace(0, len(scenes) - 1, count).round().astype(int))
