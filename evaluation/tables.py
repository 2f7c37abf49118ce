"""The tables of a report as CSV, for spreadsheets and papers. Shares lie in 0..1; a missing score is empty."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluation.method_rows import SCORES
from evaluation.report_schema import AVERAGE, MethodRow, Report
from pipeline.data.labels import CLASS_NAMES

Row = dict[str, object]


def write_tables(report: Report, folder: Path) -> None:
    """Writes `scores.csv`, `classes.csv` and `confusion.csv`."""
    _write(folder / "scores.csv", list(score_rows(report)))
    _write(folder / "classes.csv", list(_class_rows(report)))
    _write(folder / "confusion.csv", list(_confusion_rows(report)))


def score_rows(report: Report) -> Iterator[Row]:
    """One row per method and domain, per condition of a domain, and for the average over the domains.

    `condition` is empty where the row is about all images of its domain, as the intervals and gains always are.
    """
    for method in report.methods:
        about = {"method": method.name, "seeds": len(method.seeds)}
        for domain in report.domains:
            place = {"domain": domain.name, "condition": "", "images": domain.images}
            yield about | place | {"test_scale": domain.scale} | _scores(method, domain.name)
            for condition, scores in method.conditions[domain.name].items():
                place = {"domain": domain.name, "condition": condition, "images": scores.images}
                stats = {score: getattr(scores, score).mean for score in SCORES}
                yield about | place | {"test_scale": domain.scale, "miou_spread": scores.miou.spread} | stats
        images = sum(domain.images for domain in report.domains)
        yield about | {"domain": AVERAGE, "condition": "", "images": images} | _scores(method, AVERAGE)


def _scores(method: MethodRow, place: str) -> Row:
    miou, gain = method.miou[place], method.gain[place]
    return {
        **{score: getattr(method, score)[place].mean for score in SCORES},
        **{f"miou_{key}": getattr(miou, key) for key in ("spread", "low", "high")},
        "gain": gain.mean,
        **{f"gain_{key}": getattr(gain, key) for key in ("low", "high", "p")},
    }


def _class_rows(report: Report) -> Iterator[Row]:
    """One row per method and domain with the IoU of every class."""
    for method in report.methods:
        for place, iou in method.iou.items():
            yield {"method": method.name, "domain": place, **dict(zip(CLASS_NAMES, iou, strict=True))}


def _confusion_rows(report: Report) -> Iterator[Row]:
    """One row per method and true class with the pixels that were predicted as each class."""
    for method, confusion in report.confusion.items():
        for name, counts in zip(CLASS_NAMES, confusion, strict=True):
            yield {"method": method, "true class": name, **dict(zip(CLASS_NAMES, counts, strict=True))}


def _write(file: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
