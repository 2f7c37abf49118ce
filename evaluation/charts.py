"""Which charts a report has: those that its numbers have data for, as files and as addresses for the page."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from evaluation import curves, figures
from evaluation.method_rows import StatOfRow, stat_at
from evaluation.report_schema import Report
from pipeline.data.pictures import file_uri

Charts = dict[str, Callable[[], Figure]]
"""How each chart is drawn, by the name of its file."""


def draw_charts(report: Report, folder: Path) -> dict[str, str]:
    """Writes the charts as `folder/NAME.png` and `.svg`; returns them as `data:` addresses by name."""
    wanted = _scores(report) | _errors(report) | _calibration(report) | _training(report)
    for index, (method, confusion) in enumerate(report.confusion.items()):
        wanted[f"confusion_{index}"] = partial(figures.confusion_picture, confusion, method)
    return {name: file_uri(figures.save_chart(draw(), folder / name), "image/svg+xml") for name, draw in wanted.items()}


def _conditions(report: Report, score: str) -> dict[str, StatOfRow]:
    """How the score of each condition is found, for the domains that have several."""
    return {
        f"{domain.name}, {condition}": stat_at(score, domain.name, condition)
        for domain in report.domains
        for condition in domain.conditions
        if len(domain.conditions) > 1
    }


def _scores(report: Report) -> Charts:
    """mIoU by domain, differences to the baseline, and mIoU by condition where a domain has several."""
    stats = {place: stat_at("miou", place) for place in report.places}
    charts: Charts = {}
    if len(stats) > 1 or len(report.methods) > 1:  # else it would be a single bar
        charts["miou"] = partial(figures.score_bars, report, stats, "mIoU by domain", "mIoU (%)")
    if any(gain.low is not None for row in report.methods for gain in row.gain.values()):
        charts["gain"] = partial(figures.gain_intervals, report, list(stats))
    if conditions := _conditions(report, "miou"):
        charts["conditions"] = partial(figures.score_bars, report, conditions, "mIoU by condition", "mIoU (%)")
    return charts


def _errors(report: Report) -> Charts:
    """Errors at boundaries and off them: bars, and curves over the band's width. What compares shares its axis."""
    kinds = ("boundary", "interior")
    bars = {
        kind: {p: stat_at(f"{kind}_error", p) for p in report.places} | _conditions(report, f"{kind}_error")
        for kind in kinds
    }
    stats = [find(row) for row in report.methods for kind in kinds for find in bars[kind].values()]
    top_bar = max((s.mean + (s.spread or 0.0) for s in stats if s.mean is not None), default=1.0)
    rates = [rate for row in report.methods for rate in (*row.band_curve.boundary, *row.band_curve.interior)]
    top_curve = max((rate for rate in rates if rate is not None), default=1.0)
    charts: Charts = {}
    for kind in kinds:
        charts[f"{kind}_error"] = partial(
            figures.score_bars, report, bars[kind], kind.capitalize(), "wrong pixels (%)", up_to=1.12 * top_bar
        )
        charts[f"{kind}_curve"] = partial(curves.band_chart, report, kind, 1.1 * top_curve)
    return charts


def _calibration(report: Report) -> Charts:
    if not any(row.calibration for row in report.methods):
        return {}
    stats = {place: stat_at("ece", place) for place in report.places}
    return {
        "reliability": partial(curves.reliability_diagram, report),
        "calibration_error": partial(figures.score_bars, report, stats, "Expected calibration error", "points"),
    }


def _training(report: Report) -> Charts:
    """Learning curves, and how well the generated images follow their masks."""
    logs = [curve for row in report.methods for curve in row.curves]
    charts: Charts = {
        key: partial(curves.learning_curve, report, key)
        for key in ("loss", "validation_miou")
        if any(getattr(log, key) for log in logs)
    }
    if report.generated and report.generated.alignment:
        charts["alignment"] = partial(figures.alignment_histogram, report.generated.alignment)
    return charts
