"""The numbers of a report: what every table, figure and sentence of the page is drawn from."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset

from evaluation.bootstrap import SIGNIFICANT, holm, interval
from evaluation.compare import Comparison, clusters, compare
from evaluation.counts import read_image_counts
from evaluation.findings import findings, headline
from evaluation.method_rows import (
    band_curve,
    class_scores,
    condition_stats,
    difference,
    pooled_bins,
    pooled_confusion,
    score_stats,
)
from evaluation.published import published_scores
from evaluation.report_schema import (
    AVERAGE,
    DomainFacts,
    Gain,
    GeneratedFacts,
    MethodRow,
    Report,
    ScoreStat,
    Stat,
    TrainingCurve,
)
from evaluation.schema import Evaluation, read_evaluation
from pipeline.data.alignment_scores import read_scores
from pipeline.data.datasets import Scene
from pipeline.errors import UserError


@dataclass(frozen=True)
class TrainedModel:
    """One trained segmenter: its method and seed, and the folders that `evaluate` and the training wrote."""

    method: str
    seed: int
    evaluation: Path
    training: Path | None = None


@dataclass(frozen=True)
class ReportContent:
    """What a report is made from. All methods are compared with `baseline`; None stands for the first model's."""

    name: str
    models: Sequence[TrainedModel]
    domains: Mapping[str, Sequence[Scene]]
    generated: Path | None
    seconds: Mapping[str, float]
    provenance: Mapping[str, Any]
    baseline: str | None = None
    alignment: Path | None = None
    """The `alignment` artifact of the generated images; without one their own columns count."""

    def by_method(self) -> dict[str, list[TrainedModel]]:
        """The models of every method, the baseline's first. UserError if there is none at all or none of that."""
        if not self.models:
            raise UserError("a report needs at least one evaluated model, got none; evaluate a segmenter first")
        methods: dict[str, list[TrainedModel]] = {}
        for model in self.models:
            methods.setdefault(model.method, []).append(model)
        baseline = self.baseline or next(iter(methods))
        if baseline not in methods:
            raise UserError(f"baseline {baseline!r} is no method of this report: choose one of {', '.join(methods)}")
        return {baseline: methods[baseline], **methods}


def summarize(content: ReportContent) -> Report:
    """All numbers of the report; the baseline is the first of the methods.

    UserError if there is no model, none of the baseline, or an evaluation lacks a domain.
    """
    methods = content.by_method()
    names = list(content.domains)
    if AVERAGE in names:
        raise UserError(f"a target is named {AVERAGE!r}, which stands for the mean over all targets: rename it")
    evaluations = {name: [_read_evaluation(model, names) for model in models] for name, models in methods.items()}
    baseline, (first, *_) = next(iter(evaluations.items()))
    scores = {name: score_stats("miou", names, evaluations[name]) for name in methods}
    gains = _gains(scores, baseline, _compared(methods, scores, baseline))
    rows = [_method_row(name, models, evaluations[name], scores[name], gains[name]) for name, models in methods.items()]
    domains = tuple(_domain_facts(name, first) for name in names)
    report = Report(
        headline="",
        findings=(),
        name=content.name,
        baseline=baseline,
        band=first.band,
        domains=domains,
        methods=tuple(rows),
        published=published_scores({domain.name: domain.images for domain in domains}),
        generated=summarize_generated(content.generated, content.alignment) if content.generated else None,
        seconds=dict(content.seconds),
        provenance=dict(content.provenance),
        confusion={},
    )
    # The words and the choice of the two methods are read from the numbers, so they come last.
    confusion = {name: pooled_confusion(names, evaluations[name]) for name in report.pair}
    words = {"headline": headline(report), "findings": tuple(findings(report))}
    return report.model_copy(update={"confusion": confusion, **words})


def _method_row(
    name: str,
    models: Sequence[TrainedModel],
    evaluations: Sequence[Evaluation],
    miou: Mapping[str, Stat],
    gains: dict[str, Gain],
) -> MethodRow:
    """One method: its evaluations, one per seed, averaged; intervals and gains come from the images' counts."""
    domains = [place for place in miou if place != AVERAGE]
    everywhere = [evaluation.domains[domain] for evaluation in evaluations for domain in domains]
    return MethodRow(
        name=name,
        seeds=tuple(model.seed for model in models),
        miou=_with_intervals(miou, domains, models),
        pixel_accuracy=score_stats("pixel_accuracy", domains, evaluations),
        boundary_error=score_stats("boundary_error", domains, evaluations),
        interior_error=score_stats("interior_error", domains, evaluations),
        ece=score_stats("ece", domains, evaluations),
        iou=class_scores(domains, evaluations),
        conditions={domain: condition_stats(domain, evaluations) for domain in domains},
        band_curve=band_curve(domains, evaluations),
        calibration=pooled_bins(scores.calibration for scores in everywhere),
        gain=gains,
        curves=tuple(_curve(model) for model in models if model.training is not None),
    )


def _with_intervals(
    stats: Mapping[str, Stat], domains: Sequence[str], models: Sequence[TrainedModel]
) -> dict[str, ScoreStat]:
    """mIoU with its interval over images and seeds; the average over domains has none."""
    folders = [model.evaluation for model in models]
    found = {name: _interval(folders, name) for name in domains}
    return {
        place: ScoreStat(**dict(stat), low=found.get(place, (None, None))[0], high=found.get(place, (None, None))[1])
        for place, stat in stats.items()
    }


def _interval(folders: Sequence[Path], domain: str) -> tuple[float | None, float | None]:
    """Interval of a method's mIoU in one domain; None where it has no image or its seeds do not share all of them."""
    images = [read_image_counts(folder, domain) for folder in folders]
    if any(list(each.ids) != list(images[0].ids) for each in images) or not len(images[0].ids):
        return None, None
    low, high = interval(np.stack([each.confusion for each in images]), clusters(images[0]))
    return (None, None) if math.isnan(low) else (low, high)


def _compared(
    methods: Mapping[str, Sequence[TrainedModel]], scores: Mapping[str, Mapping[str, Stat]], baseline: str
) -> dict[str, Comparison]:
    """Every method that has scores against the baseline, on the images that both saw."""
    if scores[baseline][AVERAGE].mean is None:
        return {}
    folders = {name: [model.evaluation for model in models] for name, models in methods.items()}
    return {
        name: compare(folders[baseline], folders[name])
        for name in methods
        if name != baseline and scores[name][AVERAGE].mean is not None
    }


def _gains(
    scores: Mapping[str, Mapping[str, Stat]], baseline: str, compared: Mapping[str, Comparison]
) -> dict[str, dict[str, Gain]]:
    """Each method's differences to the baseline, by method and place.

    The averages over targets are the primary comparisons, the single targets a second family; each family is corrected
    by Holm over all methods.
    """
    averages = {(name, AVERAGE): comparison.mean for name, comparison in compared.items()}
    cells = {(name, place): found for name, c in compared.items() for place, found in c.domains.items()}
    tested: dict[tuple[str, str], dict[str, Any]] = {}
    for family in (averages, cells):
        for (where, found), p in zip(family.items(), holm([d.p for d in family.values()]), strict=True):
            if math.isnan(found.difference):
                continue
            direction = "better" if found.difference > 0 else "worse"
            verdict = direction if p < SIGNIFICANT else None
            tested[where] = {
                "low": found.low,
                "high": found.high,
                "p": p,
                "verdict": verdict,
                "about": "methods" if found.methods else "networks",
            }
    return {
        name: {
            place: Gain(**dict(difference(stat, scores[baseline][place])), **tested.get((name, place), {}))
            for place, stat in stats.items()
        }
        for name, stats in scores.items()
    }


def _read_evaluation(model: TrainedModel, domains: Sequence[str]) -> Evaluation:
    evaluation = read_evaluation(model.evaluation)
    if missing := sorted(set(domains) - set(evaluation.domains)):
        raise UserError(
            f"{model.evaluation} lacks the domains {missing}; evaluate {model.method}, seed {model.seed}, on them"
        )
    return evaluation


def _domain_facts(name: str, evaluation: Evaluation) -> DomainFacts:
    result = evaluation.domains[name]
    conditions = {condition: scores.images for condition, scores in result.conditions.items()}
    return DomainFacts(
        name=name, images=result.images, scale=result.scale, skipped=result.skipped, conditions=conditions
    )


def _curve(model: TrainedModel) -> TrainingCurve:
    """The training log's loss and validation mIoU over iterations; what is no number (NaN) is left out."""
    assert model.training is not None
    lines = (model.training / "log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]

    def course(name: str) -> tuple[tuple[int, float], ...]:
        values = ((entry["iteration"], entry.get(name)) for entry in entries)
        return tuple((at, value) for at, value in values if value is not None and math.isfinite(value))

    return TrainingCurve(seed=model.seed, loss=course("loss"), validation_miou=course("validation_miou"))


def summarize_generated(folder: Path, scored: Path | None = None) -> GeneratedFacts:
    """Counts and alignment scores of a generated data set (parquet files under `folder/data`), the latter from the
    folder `scored` if there is one."""
    dataset = pyarrow.dataset.dataset(folder / "data", format="parquet")
    table = dataset.to_table(columns=["condition", "class_id"]).to_pydict()
    columns = read_scores(folder, scored)
    found = {name: [None if math.isnan(v) else v for v in values.tolist()] for name, values in columns.items()}
    scores = found.get("alignment", [])
    controls = found.get("alignment_control", [None] * len(scores))
    return GeneratedFacts(
        images=dataset.count_rows(),
        conditions=dict(Counter(table["condition"])),
        classes={str(train_id): count for train_id, count in sorted(Counter(table["class_id"]).items())},
        alignment=tuple(both for both in zip(scores, controls, strict=True) if both[0] is not None),
    )
