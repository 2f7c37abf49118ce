"""The numbers of a report, as plain JSON: what every table, figure and sentence of the page is drawn from."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset

from pipeline.datasets import Scene
from pipeline.errors import UserError

Numbers = dict[str, Any]
SCORES = ("miou", "pixel_accuracy", "boundary_error", "interior_error")


@dataclass(frozen=True)
class Run:
    """One trained segmenter: its method and seed, and the folders that `evaluate` and the training wrote."""

    method: str
    seed: int
    evaluation: Path
    training: Path | None = None


@dataclass(frozen=True)
class ReportContent:
    """What a report is made from. The first run's method is the baseline that the others are compared with."""

    name: str
    runs: Sequence[Run]
    domains: Mapping[str, Sequence[Scene]]
    generated: Path | None
    seconds: Mapping[str, float]
    provenance: Mapping[str, Any]


def summarize(content: ReportContent) -> Numbers:
    """All numbers of the report. Scores and shares lie in 0..1, a missing one is None.

    A `stat` is {"mean", "spread", "values"} over the seeds; the spread is the sample standard deviation, None for one
    seed. UserError if there is no run or an evaluation lacks a domain.
    """
    if not content.runs:
        raise UserError("a report needs at least one evaluated run, got none; evaluate a segmenter first")
    evaluations: dict[str, dict[Run, Numbers]] = {}
    for run in content.runs:
        evaluations.setdefault(run.method, {})[run] = _read_evaluation(run, content.domains)
    first = evaluations[content.runs[0].method][content.runs[0]]
    rows = [_method(method, content.domains, by_run) for method, by_run in evaluations.items()]
    for row in rows:
        row["gain"] = {place: _difference(row["miou"][place], rows[0]["miou"][place]) for place in row["miou"]}
    return {
        "name": content.name,
        "baseline": content.runs[0].method,
        "band": first["band"],
        "domains": [_domain(name, first["domains"][name]) for name in content.domains],
        "methods": rows,
        "generated": summarize_generated(content.generated) if content.generated else None,
        "seconds": dict(content.seconds),
        "provenance": dict(content.provenance),
    }


def best_method(numbers: Numbers) -> Numbers:
    """The method with the highest mIoU averaged over domains and seeds (the earliest on a tie)."""

    def score(row: Numbers) -> float:
        mean = row["miou"]["average"]["mean"]
        return -1.0 if mean is None else mean

    return max(numbers["methods"], key=score)


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
    return {"name": name, **{key: result[key] for key in ("images", "scale", "skipped")}}


def _method(name: str, domains: Iterable[str], evaluations: Mapping[Run, Numbers]) -> Numbers:
    """One method's scores per domain and averaged over the domains, its per-class IoU and its learning curves."""
    per_seed = [evaluation["domains"] for evaluation in evaluations.values()]
    row: Numbers = {"name": name, "seeds": [run.seed for run in evaluations]}
    for score in SCORES:
        row[score] = {domain: _stat([seed[domain][score] for seed in per_seed]) for domain in domains}
        row[score]["average"] = _stat([_mean(seed[domain][score] for domain in domains) for seed in per_seed])
    row["iou"] = {
        domain: [_mean(values) for values in zip(*(seed[domain]["iou"] for seed in per_seed), strict=True)]
        for domain in domains
    }
    row["iou"]["average"] = [_mean(values) for values in zip(*row["iou"].values(), strict=True)]
    row["curves"] = [_curve(run) for run in evaluations if run.training is not None]
    return row


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that exist."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def _stat(values: Sequence[float | None]) -> Numbers:
    present = [value for value in values if value is not None]
    spread = statistics.stdev(present) if len(present) > 1 else None
    return {"mean": _mean(present), "spread": spread, "values": list(values)}


def _difference(stat: Numbers, baseline: Numbers) -> Numbers:
    """Method minus baseline, seed by seed where both have equally many seeds, else of the means alone."""
    pairs = [(stat["mean"], baseline["mean"])]
    if len(stat["values"]) == len(baseline["values"]):
        pairs = list(zip(stat["values"], baseline["values"], strict=True))
    return _stat([None if a is None or b is None else a - b for a, b in pairs])


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
    """Counts and alignment scores of a generated data set (parquet files under `folder/data`)."""
    dataset = pyarrow.dataset.dataset(folder / "data", format="parquet")
    columns = [name for name in ("condition", "class_id", "alignment") if name in dataset.schema.names]
    table = dataset.to_table(columns=columns).to_pydict()
    alignment = [value for value in table.get("alignment", []) if value is not None]
    return {
        "images": dataset.count_rows(),
        "conditions": dict(Counter(table["condition"])),
        "classes": {str(train_id): count for train_id, count in sorted(Counter(table["class_id"]).items())},
        "alignment": alignment,
    }
