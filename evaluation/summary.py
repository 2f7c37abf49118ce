"""The numbers of a report, as plain JSON: what every table, figure and sentence of the page is drawn from."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset

from evaluation.bootstrap import Difference, interval
from evaluation.compare import compare
from evaluation.image_counts import read_images
from evaluation.method_rows import Numbers, difference, method_row, pooled_confusion
from evaluation.published import published_scores
from pipeline.data.datasets import Scene
from pipeline.errors import UserError


@dataclass(frozen=True)
class Run:
    """One trained segmenter: its method and seed, and the folders that `evaluate` and the training wrote."""

    method: str
    seed: int
    evaluation: Path
    training: Path | None = None


@dataclass(frozen=True)
class ReportContent:
    """What a report is made from. All methods are compared with `baseline`; None stands for the first run's method."""

    name: str
    runs: Sequence[Run]
    domains: Mapping[str, Sequence[Scene]]
    generated: Path | None
    seconds: Mapping[str, float]
    provenance: Mapping[str, Any]
    baseline: str | None = None

    def by_method(self) -> dict[str, list[Run]]:
        """The runs of every method, the baseline's first. UserError if there is no run or none of the baseline."""
        if not self.runs:
            raise UserError("a report needs at least one evaluated run, got none; evaluate a segmenter first")
        methods: dict[str, list[Run]] = {}
        for run in self.runs:
            methods.setdefault(run.method, []).append(run)
        baseline = self.baseline or next(iter(methods))
        if baseline not in methods:
            raise UserError(f"baseline {baseline!r} is no method of this report: choose one of {', '.join(methods)}")
        return {baseline: methods[baseline], **methods}


def summarize(content: ReportContent) -> Numbers:
    """All numbers of the report, as `method_row` describes them; the baseline is the first of the methods.

    UserError if there is no run, none of the baseline, or an evaluation lacks a domain.
    """
    methods = content.by_method()
    names = list(content.domains)
    evaluations = {name: [_read_evaluation(run, names) for run in runs] for name, runs in methods.items()}
    baseline, (first, *_) = next(iter(evaluations.items()))
    rows = [
        method_row(name, names, [run.seed for run in runs], evaluations[name])
        | {"curves": [_curve(run) for run in runs if run.training is not None]}
        for name, runs in methods.items()
    ]
    for row in rows:
        _add_intervals(row, rows[0], names, methods)
    domains = [_domain(name, first["domains"][name]) for name in names]
    numbers = {
        "name": content.name,
        "baseline": baseline,
        "band": first["band"],
        "domains": domains,
        "methods": rows,
        "published": published_scores({domain["name"]: domain["images"] for domain in domains}),
        "generated": summarize_generated(content.generated) if content.generated else None,
        "seconds": dict(content.seconds),
        "provenance": dict(content.provenance),
    }
    return numbers | {"confusion": {n: pooled_confusion(names, evaluations[n]) for n in pair(numbers)}}


def best_method(numbers: Numbers) -> Numbers:
    """The method with the highest mIoU averaged over domains and seeds (the earliest on a tie)."""
    return max(numbers["methods"], key=_average)


def pair(numbers: Numbers) -> list[str]:
    """The two methods that the report looks at closely: the baseline and the best of the others, if there is one."""
    baseline, *others = numbers["methods"]
    return [baseline["name"]] + ([max(others, key=_average)["name"]] if others else [])


def _average(row: Numbers) -> float:
    mean = row["miou"]["average"]["mean"]
    return -1.0 if mean is None else mean


def _add_intervals(row: Numbers, base: Numbers, domains: Sequence[str], methods: Mapping[str, Sequence[Run]]) -> None:
    """Adds `gain` over the baseline, and 95% bootstrap intervals over images as "low" and "high" (None if unknown).

    A gain's `verdict` is "better" or "worse" where the paired test finds it significant, else None.
    """
    folders = [run.evaluation for run in methods[row["name"]]]
    row["gain"] = {place: difference(row["miou"][place], base["miou"][place]) for place in row["miou"]}
    for place, stat in row["miou"].items():
        low, high = _interval(folders, place) if place in domains else (None, None)
        stat |= {"low": low, "high": high}
    baseline = [run.evaluation for run in methods[base["name"]]]
    scored = base["miou"]["average"]["mean"] is not None and row["miou"]["average"]["mean"] is not None
    comparison = compare(baseline, folders) if scored and row is not base else None
    for place, gain in row["gain"].items():
        gain |= dict.fromkeys(("low", "high", "p", "verdict"))
        found = comparison and (comparison.mean if place not in domains else comparison.domains.get(place))
        if found and not math.isnan(found.difference):
            gain |= {"low": found.low, "high": found.high, "p": found.p, "verdict": _verdict(found)}


def _verdict(found: Difference) -> str | None:
    return ("better" if found.difference > 0 else "worse") if found.significant else None


def _interval(folders: Sequence[Path], domain: str) -> tuple[float | None, float | None]:
    """Interval of a method's mIoU in one domain; None where it has no image or its seeds do not share all of them."""
    images = [read_images(folder, domain) for folder in folders]
    if any(list(each.ids) != list(images[0].ids) for each in images) or not len(images[0].ids):
        return None, None
    low, high = interval(np.stack([each.confusion for each in images]))
    return low, high


def _read_evaluation(run: Run, domains: Iterable[str]) -> Numbers:
    file = run.evaluation / "evaluation.json"
    if not file.exists():
        raise UserError(f"no evaluation of {run.method} (seed {run.seed}) at {file}; evaluate it first")
    evaluation: Numbers = json.loads(file.read_text(encoding="utf-8"))
    missing = set(domains) - set(evaluation["domains"])
    if missing:
        raise UserError(f"{file} lacks the domains {sorted(missing)}; evaluate {run.method}, seed {run.seed}, on them")
    return evaluation


def _domain(name: str, result: Numbers) -> Numbers:
    shown = {key: result[key] for key in ("images", "scale", "skipped")}
    return {"name": name, **shown, "conditions": {name: one["images"] for name, one in result["conditions"].items()}}


def _curve(run: Run) -> Numbers:
    """The training log's loss and validation mIoU over iterations."""
    assert run.training is not None
    lines = (run.training / "log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return {
        "seed": run.seed,
        "loss": [[entry["iteration"], entry["loss"]] for entry in entries if "loss" in entry],
        "validation_miou": [
            [entry["iteration"], entry["validation_miou"]] for entry in entries if "validation_miou" in entry
        ],
    }


def summarize_generated(folder: Path) -> Numbers:
    """Counts and alignment scores of a generated data set (parquet files under `folder/data`).

    `alignment` holds [score, score of the control] per image that has them (the control None where none was measured).
    """
    dataset = pyarrow.dataset.dataset(folder / "data", format="parquet")
    columns = ("condition", "class_id", "alignment", "alignment_control")
    table = dataset.to_table(columns=[name for name in columns if name in dataset.schema.names]).to_pydict()
    scores = table.get("alignment", [])
    controls = table.get("alignment_control", [None] * len(scores))
    return {
        "images": dataset.count_rows(),
        "conditions": dict(Counter(table["condition"])),
        "classes": {str(train_id): count for train_id, count in sorted(Counter(table["class_id"]).items())},
        "alignment": [list(both) for both in zip(scores, controls, strict=True) if both[0] is not None],
    }
