"""Which charts a report has: those that its numbers have data for, as files and as addresses for the page."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from evaluation import curves, figures
from evaluation.method_rows import Numbers, stat_at
from pipeline.data.pictures import file_uri

Charts = dict[str, Callable[[], Figure]]
"""How each chart is drawn, by the name of its file."""


def draw_charts(numbers: Numbers, folder: Path) -> dict[str, str]:
    """Writes the charts as `folder/NAME.png` and `.svg`; returns them as `data:` addresses by name."""
    wanted = _scores(numbers) | _errors(numbers) | _calibration(numbers) | _training(numbers)
    for index, (method, confusion) in enumerate(numbers["confusion"].items()):
        wanted[f"confusion_{index}"] = partial(figures.confusion_picture, confusion, method)
    return {name: file_uri(figures.save(draw(), folder / name), "image/svg+xml") for name, draw in wanted.items()}


def _places(numbers: Numbers) -> list[str]:
    domains = [domain["name"] for domain in numbers["domains"]]
    return [*domains, "average"] if len(domains) > 1 else domains


def _conditions(numbers: Numbers, score: str) -> dict[str, Callable[[Numbers], Numbers]]:
    """How the score of each condition is found, for the domains that have several."""
    return {
        f"{domain['name']}, {condition}": stat_at(score, domain["name"], condition)
        for domain in numbers["domains"]
        for condition in domain["conditions"]
        if len(domain["conditions"]) > 1
    }


def _scores(numbers: Numbers) -> Charts:
    """mIoU by domain, differences to the baseline, and mIoU by condition where a domain has several."""
    stats = {place: stat_at("miou", place) for place in _places(numbers)}
    charts: Charts = {}
    if len(stats) > 1 or len(numbers["methods"]) > 1:  # else it would be a single bar
        charts["miou"] = partial(figures.score_bars, numbers, stats, "mIoU by domain", "mIoU (%)")
    if any(gain["low"] is not None for row in numbers["methods"] for gain in row["gain"].values()):
        charts["gain"] = partial(figures.gain_intervals, numbers, list(stats))
    if conditions := _conditions(numbers, "miou"):
        charts["conditions"] = partial(figures.score_bars, numbers, conditions, "mIoU by condition", "mIoU (%)")
    return charts


def _errors(numbers: Numbers) -> Charts:
    """Errors at boundaries and off them: bars, and curves over the band's width. What compares shares its axis."""
    kinds = ("boundary", "interior")
    bars = {
        kind: {p: stat_at(f"{kind}_error", p) for p in _places(numbers)} | _conditions(numbers, f"{kind}_error")
        for kind in kinds
    }
    stats = [find(row) for row in numbers["methods"] for kind in kinds for find in bars[kind].values()]
    top_bar = max((s["mean"] + (s["spread"] or 0.0) for s in stats if s["mean"] is not None), default=1.0)
    rates = [rate for row in numbers["methods"] for kind in kinds for rate in row["band_curve"][kind]]
    top_curve = max((rate for rate in rates if rate is not None), default=1.0)
    charts: Charts = {}
    for kind in kinds:
        charts[f"{kind}_error"] = partial(
            figures.score_bars, numbers, bars[kind], kind.capitalize(), "wrong pixels (%)", up_to=1.12 * top_bar
        )
        charts[f"{kind}_curve"] = partial(curves.band_curve, numbers, kind, 1.1 * top_curve)
    return charts


def _calibration(numbers: Numbers) -> Charts:
    if not any(row["calibration"] for row in numbers["methods"]):
        return {}
    stats = {place: stat_at("ece", place) for place in _places(numbers)}
    return {
        "reliability": partial(curves.reliability_diagram, numbers),
        "calibration_error": partial(figures.score_bars, numbers, stats, "Expected calibration error", "points"),
    }


def _training(numbers: Numbers) -> Charts:
    """Learning curves, and how well the generated images follow their masks."""
    logs = [curve for row in numbers["methods"] for curve in row["curves"]]
    charts: Charts = {
        key: partial(curves.learning_curve, numbers, key)
        for key in ("loss", "validation_miou")
        if any(log[key] for log in logs)
    }
    if numbers["generated"] and numbers["generated"]["alignment"]:
        charts["alignment"] = partial(figures.alignment_histogram, numbers["generated"]["alignment"])
    return charts
