"""One method's row of a report: its evaluations, one per seed, as means and spreads. A missing score stays None."""

import statistics
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from evaluation.report_schema import AVERAGE, BandCurve, ConditionStats, MethodRow, Stat
from evaluation.schema import Calibration, ClassScores, ConfusionTable, Evaluation, PlaceScores, ReliabilityBin, Score

SCORES = ("miou", "pixel_accuracy", "boundary_error", "interior_error", "ece")
"""The scores that every table and figure has a stat of, as attributes of a row, a condition and a domain."""


def score_stats(score: str, domains: Sequence[str], evaluations: Sequence[Evaluation]) -> dict[str, Stat]:
    """One score's stat per domain, and over the domains: the average is taken within each seed, then over the seeds.

    `evaluations` has one per seed. A domain without a score does not count in the average.
    """
    seeds = [{name: _score(evaluation.domains[name], score) for name in domains} for evaluation in evaluations]
    stats = {name: stat([seed[name] for seed in seeds]) for name in domains}
    return {**stats, AVERAGE: stat([mean(seed.values()) for seed in seeds])}


def class_scores(domains: Sequence[str], evaluations: Sequence[Evaluation]) -> dict[str, ClassScores]:
    """IoU per class and domain, mean over the seeds; `average` is the mean over the domains that have the class."""
    iou = {name: means(evaluation.domains[name].iou for evaluation in evaluations) for name in domains}
    return {**iou, AVERAGE: means(list(iou.values()))}


def condition_stats(domain: str, evaluations: Sequence[Evaluation]) -> dict[str, ConditionStats]:
    """Scores per condition of one domain, for the conditions that every seed has."""
    first, *others = (evaluation.domains[domain].conditions for evaluation in evaluations)
    return {
        name: ConditionStats(
            images=first[name].images,
            **{score: stat([_score(seed[name], score) for seed in (first, *others)]) for score in SCORES},
        )
        for name in first
        if all(name in seed for seed in others)
    }


def band_curve(domains: Sequence[str], evaluations: Sequence[Evaluation]) -> BandCurve:
    """Error rates over the width of the boundary band, mean over domains and seeds."""
    curves = [evaluation.domains[name].curve for evaluation in evaluations for name in domains]
    return BandCurve(
        px=curves[0].px,
        boundary=means(curve.boundary for curve in curves),
        interior=means(curve.interior for curve in curves),
    )


def pooled_bins(calibrations: Iterable[Calibration | None]) -> tuple[ReliabilityBin, ...] | None:
    """Reliability bins of all pixels of all domains and seeds; None where no prediction had a confidence."""
    known = [calibration.bins for calibration in calibrations if calibration]
    if not known:
        return None
    return tuple(_pooled(bins) for bins in zip(*known, strict=True))


def _pooled(bins: Sequence[ReliabilityBin]) -> ReliabilityBin:
    """One bin of all pixels: the mean of the bins' means, each with the weight of its pixels."""
    pixels = sum(b.pixels for b in bins)
    confidence = sum(b.pixels * (b.confidence or 0.0) for b in bins)
    accuracy = sum(b.pixels * (b.accuracy or 0.0) for b in bins)
    if not pixels:
        return ReliabilityBin(pixels=0, confidence=None, accuracy=None)
    return ReliabilityBin(pixels=pixels, confidence=min(1.0, confidence / pixels), accuracy=min(1.0, accuracy / pixels))


def pooled_confusion(domains: Iterable[str], evaluations: Sequence[Evaluation]) -> ConfusionTable:
    """(19,19) pixels per (label class, predicted class), summed over domains and seeds."""
    counts = [np.array(evaluation.domains[name].confusion) for name in domains for evaluation in evaluations]
    return tuple(tuple(row) for row in np.sum(counts, axis=0).tolist())


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that exist."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def means(lists: Iterable[Sequence[float | None]]) -> tuple[float | None, ...]:
    """Mean of several equally long lists, item by item, over the values that exist."""
    return tuple(mean(values) for values in zip(*lists, strict=True))


def stat(values: Sequence[float | None]) -> Stat:
    """Mean and sample standard deviation over the seeds that have a value."""
    present = [value for value in values if value is not None]
    spread = statistics.stdev(present) if len(present) > 1 else None
    return Stat(mean=mean(present), spread=spread, values=tuple(values))


def difference(of: Stat, baseline: Stat) -> Stat:
    """Stat minus stat, seed by seed where both have equally many seeds, else of the means alone."""
    pairs = [(of.mean, baseline.mean)]
    if len(of.values) == len(baseline.values):
        pairs = list(zip(of.values, baseline.values, strict=True))
    return stat([None if a is None or b is None else a - b for a, b in pairs])


StatOfRow = Callable[[MethodRow], Stat]
"""How a method's row is asked for one of its stats."""


def stat_at(score: str, domain: str, condition: str | None = None) -> StatOfRow:
    """Asks a row for its stat of a score in a domain (or on average), or in one condition of a domain."""

    def found(row: MethodRow) -> Stat:
        stat_of_domain: Stat = getattr(row, score)[domain]
        if condition is None:
            return stat_of_domain
        stat_of_condition: Stat = getattr(row.conditions[domain][condition], score)
        return stat_of_condition

    return found


def _score(result: PlaceScores, name: str) -> Score:
    score: Score = getattr(result, name)
    return score
