"""One method's row of a report: its evaluations, one per seed, as means and spreads. A missing score stays None."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Numbers = dict[str, Any]
SCORES = ("miou", "pixel_accuracy", "boundary_error", "interior_error", "ece")


def method_row(name: str, domains: Sequence[str], seeds: Sequence[int], evaluations: Sequence[Numbers]) -> Numbers:
    """Scores per domain and as `average` over the domains, and the parts that figures are drawn from.

    `evaluations` are the contents of evaluation.json, one per seed. A `stat` is {"mean", "spread", "values"} over the
    seeds; the spread is the sample standard deviation, None for one seed. Scores and shares lie in 0..1.
    """
    results = [evaluation["domains"] for evaluation in evaluations]
    row: Numbers = {"name": name, "seeds": list(seeds)}
    for score in SCORES:
        row[score] = {domain: stat([_score(seed[domain], score) for seed in results]) for domain in domains}
        row[score]["average"] = stat([mean(_score(seed[domain], score) for domain in domains) for seed in results])
    row["iou"] = {domain: means(seed[domain]["iou"] for seed in results) for domain in domains}
    row["iou"]["average"] = means(list(row["iou"].values()))
    row["conditions"] = {domain: _conditions([seed[domain]["conditions"] for seed in results]) for domain in domains}
    row["band_curve"] = {
        "px": results[0][domains[0]]["curve"]["px"],
        **{key: means(seed[d]["curve"][key] for seed in results for d in domains) for key in ("boundary", "interior")},
    }
    row["calibration"] = _pooled_bins([seed[domain]["calibration"] for seed in results for domain in domains])
    return row


def pooled_confusion(domains: Iterable[str], evaluations: Sequence[Numbers]) -> list[list[int]]:
    """(19,19) pixels per (label class, predicted class), summed over domains and seeds."""
    counts = [np.array(evaluation["domains"][d]["confusion"]) for d in domains for evaluation in evaluations]
    summed: list[list[int]] = np.sum(counts, axis=0).tolist()
    return summed


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that exist."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def means(lists: Iterable[Sequence[float | None]]) -> list[float | None]:
    """Mean of several equally long lists, item by item, over the values that exist."""
    return [mean(values) for values in zip(*lists, strict=True)]


def stat(values: Sequence[float | None]) -> Numbers:
    """Mean and sample standard deviation over the seeds that have a value."""
    present = [value for value in values if value is not None]
    spread = statistics.stdev(present) if len(present) > 1 else None
    return {"mean": mean(present), "spread": spread, "values": list(values)}


def difference(of: Numbers, baseline: Numbers) -> Numbers:
    """Stat minus stat, seed by seed where both have equally many seeds, else of the means alone."""
    pairs = [(of["mean"], baseline["mean"])]
    if len(of["values"]) == len(baseline["values"]):
        pairs = list(zip(of["values"], baseline["values"], strict=True))
    return stat([None if a is None or b is None else a - b for a, b in pairs])


def stat_at(score: str, domain: str, condition: str | None = None) -> Callable[[Numbers], Numbers]:
    """How a method's row is asked for its stat of a score in a domain, or in one condition of a domain."""
    if condition is None:
        return lambda row: row[score][domain]
    return lambda row: row["conditions"][domain][condition][score]


def _score(result: Numbers, name: str) -> float | None:
    if name == "ece":
        return result["calibration"]["ece"] if result["calibration"] else None
    score: float | None = result[name]
    return score


def _conditions(seeds: Sequence[Mapping[str, Numbers]]) -> Numbers:
    """Scores per condition of one domain: {condition: {"images", score: stat}}."""
    return {
        name: {"images": seeds[0][name]["images"]}
        | {score: stat([_score(seed[name], score) for seed in seeds]) for score in SCORES}
        for name in seeds[0]
        if all(name in seed for seed in seeds)
    }


def _pooled_bins(calibrations: Sequence[Numbers | None]) -> list[Numbers] | None:
    """Reliability bins of all pixels of all domains and seeds; None where no prediction had a confidence."""
    known = [calibration["bins"] for calibration in calibrations if calibration]
    if not known:
        return None
    pooled = []
    for bins in zip(*known, strict=True):
        pixels = sum(b["pixels"] for b in bins)
        sums = {key: sum(b["pixels"] * (b[key] or 0.0) for b in bins) for key in ("confidence", "accuracy")}
        pooled.append({"pixels": pixels, **{key: total / pixels if pixels else None for key, total in sums.items()}})
    return pooled
