"""Tables of scores: of one evaluation, of the methods of a report, of a comparison. Drawn from the typed records."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from evaluation.bootstrap import Difference, interval
from evaluation.compare import Comparison, clusters
from evaluation.counts import ImageCounts, read_image_counts
from evaluation.method_rows import stat_at
from evaluation.report_schema import MethodRow, Report
from evaluation.schema import Evaluation, PlaceScores
from flows.tables import Column, percent, points, span, table
from pipeline.data.labels import CLASS_NAMES


class PlaceRow(NamedTuple):
    """The scores of a domain or of one of its conditions, as a row of a table."""

    name: str
    scores: PlaceScores
    interval: tuple[float | None, float | None]
    """95% interval of the mIoU over images."""
    scale: str


SCORE_COLUMNS: Sequence[Column[PlaceRow]] = (
    Column("domain", lambda row: row.name, left=True),
    Column("mIoU", lambda row: percent(row.scores.miou)),
    Column("95% interval", lambda row: span(*row.interval)),
    Column("pixels right", lambda row: percent(row.scores.pixel_accuracy)),
    Column("boundary error", lambda row: percent(row.scores.boundary_error)),
    Column("interior error", lambda row: percent(row.scores.interior_error)),
    Column("calibration error", lambda row: percent(row.scores.ece)),
    Column("images", lambda row: f"{row.scores.images:,}"),
    Column("network input", lambda row: row.scale, left=True),
)


def place_rows(evaluation: Evaluation, folder: Path) -> list[PlaceRow]:
    """Every domain of an evaluation's folder, each followed by its conditions."""
    rows = []
    for name, scores in evaluation.domains.items():
        counts = read_image_counts(folder, name)
        rows.append(PlaceRow(name, scores, _interval(counts), scores.scale))
        rows += [
            PlaceRow(f"  {condition}", part, _interval(counts.where(condition)), "")
            for condition, part in scores.conditions.items()
        ]
    return rows


def _interval(counts: ImageCounts) -> tuple[float | None, float | None]:
    low, high = interval(counts.confusion, clusters(counts))
    return (None, None) if math.isnan(low) else (low, high)


def scores_table(evaluation: Evaluation, folder: Path) -> Table:
    """One segmenter on every domain, and on every condition of a domain."""
    title = "Scores in percent, at the labels' own size; 95% interval over images"
    return table(title, SCORE_COLUMNS, place_rows(evaluation, folder))


def class_columns(evaluation: Evaluation) -> list[Column[int]]:
    """IoU of a class (by its train id) on every domain."""
    domains = [Column(name, _class_cell(scores)) for name, scores in evaluation.domains.items()]
    return [Column("class", lambda train_id: CLASS_NAMES[train_id], left=True), *domains]


def _class_cell(scores: PlaceScores) -> Callable[[int], str]:
    return lambda train_id: percent(scores.iou[train_id])


def classes_table(evaluation: Evaluation) -> Table:
    """IoU per class (rows) and domain (columns)."""
    title = "IoU per class in percent (-: no labeled pixel is of the class or was predicted as it)"
    return table(title, class_columns(evaluation), range(len(CLASS_NAMES)))


def method_columns(report: Report, score: str = "miou") -> list[Column[MethodRow]]:
    """A score of a method on every domain and on average: its mean over seeds, and their standard deviation."""
    return [
        Column("method", lambda row: row.name, left=True),
        *(Column(place, _score_cell(score, place)) for place in report.places),
    ]


def _score_cell(score: str, place: str) -> Callable[[MethodRow], str]:
    find = stat_at(score, place)

    def cell(row: MethodRow) -> str:
        stat = find(row)
        return percent(stat.mean) + ("" if stat.spread is None else f" ± {percent(stat.spread)}")

    return cell


def methods_title(report: Report, score: str = "miou") -> str:
    """What the numbers of a table of methods are."""
    seeds = max(len(row.seeds) for row in report.methods)
    over = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    what = {
        "miou": "mIoU in percent",
        "boundary_error": f"Wrong pixels in percent, within {report.band} px of another class",
        "interior_error": f"Wrong pixels in percent, farther than {report.band} px from other classes",
    }
    return f"{what[score]}, {over}"


def methods_table(report: Report, score: str = "miou") -> Table:
    """A score of each method (rows) on each domain: mIoU, or the share of wrong pixels at boundaries
    (`boundary_error`) or inside (`interior_error`), as in FLEX-Seg's figure 1."""
    return table(methods_title(report, score), method_columns(report, score), report.methods)


class DifferenceRow(NamedTuple):
    """The difference of two models in one domain or in the mean."""

    name: str
    difference: Difference


DIFFERENCE_COLUMNS: Sequence[Column[DifferenceRow]] = (
    Column("domain", lambda row: row.name, left=True),
    Column("difference", lambda row: points(row.difference.difference)),
    Column("95% interval", lambda row: span(row.difference.low, row.difference.high, points)),
    Column("p", lambda row: "-" if math.isnan(row.difference.p) else f"{row.difference.p:.2g}"),
    Column("verdict", lambda row: verdict(row.difference), left=True),
)


def verdict(difference: Difference) -> str:
    """A difference in one word, or that it is none."""
    if not difference.significant:
        return "not significant"
    return "better" if difference.difference > 0 else "worse"


def comparison_table(comparison: Comparison, baseline: str, other: str) -> Table:
    """The differences of two models per domain, and in the mean below a line."""
    rows = [DifferenceRow(name, difference) for name, difference in comparison.corrected.items()]
    title = f"mIoU of {other} less that of {baseline}, in points, on the same images"
    if len(rows) > 1:
        title += "; p corrected for the number of domains (Holm)"
    return table(title, DIFFERENCE_COLUMNS, rows, [DifferenceRow("mean", comparison.mean)])
