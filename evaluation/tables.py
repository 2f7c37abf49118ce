"""The tables of a report as CSV, for spreadsheets and papers. Shares lie in 0..1; a missing score is empty."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.method_rows import SCORES, Numbers
from pipeline.data.labels import CLASS_NAMES

Row = dict[str, Any]


def write_tables(numbers: Numbers, folder: Path) -> None:
    """Writes `scores.csv`, `classes.csv` and `confusion.csv`."""
    _write(folder / "scores.csv", list(score_rows(numbers)))
    _write(folder / "classes.csv", list(_class_rows(numbers)))
    _write(folder / "confusion.csv", list(_confusion_rows(numbers)))


def score_rows(numbers: Numbers) -> Iterator[Row]:
    """One row per method and domain, per condition of a domain, and for the average over the domains.

    `condition` is empty where the row is about all images of its domain, as the intervals and gains always are.
    """
    for method in numbers["methods"]:
        about = {"method": method["name"], "seeds": len(method["seeds"])}
        for domain in numbers["domains"]:
            place = {"domain": domain["name"], "condition": "", "images": domain["images"]}
            yield about | place | {"test_scale": domain["scale"]} | _scores(method, domain["name"])
            for condition, scores in method["conditions"][domain["name"]].items():
                place = {"domain": domain["name"], "condition": condition, "images": scores["images"]}
                stats = {score: scores[score]["mean"] for score in SCORES}
                yield about | place | {"test_scale": domain["scale"], "miou_spread": scores["miou"]["spread"]} | stats
        images = sum(domain["images"] for domain in numbers["domains"])
        yield about | {"domain": "average", "condition": "", "images": images} | _scores(method, "average")


def _scores(method: Numbers, place: str) -> Row:
    stat, gain = method["miou"][place], method["gain"][place]
    return {
        **{score: method[score][place]["mean"] for score in SCORES},
        **{f"miou_{key}": stat.get(key) for key in ("spread", "low", "high")},
        "gain": gain["mean"],
        **{f"gain_{key}": gain[key] for key in ("low", "high", "p")},
    }


def _class_rows(numbers: Numbers) -> Iterator[Row]:
    """One row per method and domain with the IoU of every class."""
    for method in numbers["methods"]:
        for place, iou in method["iou"].items():
            yield {"method": method["name"], "domain": place, **dict(zip(CLASS_NAMES, iou, strict=True))}


def _confusion_rows(numbers: Numbers) -> Iterator[Row]:
    """One row per method and true class with the pixels that were predicted as each class."""
    for method, confusion in numbers["confusion"].items():
        for name, counts in zip(CLASS_NAMES, confusion, strict=True):
            yield {"method": method, "true class": name, **dict(zip(CLASS_NAMES, counts, strict=True))}


def _write(file: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
