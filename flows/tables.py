"""What the commands print: tables for the terminal."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pipeline.data.labels import CLASS_NAMES
from pipeline.requests import GenerationRequest
from pipeline.store.artifacts import Artifact, Event
from pipeline.work.progress import duration

if TYPE_CHECKING:
    from flows.commands.data_check import Finding


def plan_table(requests: Sequence[GenerationRequest]) -> Table:
    """How many images are asked for, by class (rows) and condition (columns), and the share of each."""
    counts: dict[tuple[int, str], int] = {}
    for request in requests:
        place = (request.class_id, request.condition)
        counts[place] = counts.get(place, 0) + 1
    conditions = list(dict.fromkeys(condition for _, condition in counts))
    table = Table(title="Images to generate, by the class that was asked for and by condition")
    for heading in ("class", *conditions, "all", "share"):
        table.add_column(heading, justify="left" if heading == "class" else "right", no_wrap=True)
    whole = len(requests)
    for class_id in sorted({class_id for class_id, _ in counts}):
        row = [counts.get((class_id, condition), 0) for condition in conditions]
        table.add_row(CLASS_NAMES[class_id], *map(str, row), str(sum(row)), f"{_percent(sum(row) / whole)}%")
    totals = [sum(count for (_, c), count in counts.items() if c == condition) for condition in conditions]
    table.add_section()
    table.add_row("all", *map(str, totals), str(whole))
    table.add_row("share", *(f"{_percent(total / whole)}%" for total in totals))
    return table


def cache_table(entries: Iterable[tuple[str, str, Artifact | None, str]]) -> Table:
    """(what, key, artifact or None, what there is of an unfinished one): what the store holds already."""
    table = Table(title="What the cache holds")
    for heading in ("what", "key", "state"):
        table.add_column(heading, no_wrap=True)
    for what, key, artifact, unfinished in entries:
        state = f"made, took {duration(artifact.manifest['seconds'])}" if artifact else unfinished or "to be made"
        table.add_row(what, key[:16], state)
    return table


def stages_table(history: Sequence[tuple[Event, Artifact]]) -> Table:
    """Per stage: artifacts built now and taken from the cache, and how long making them took, then or now."""
    table = Table(title="Stages")
    for heading in ("stage", "built now", "from the cache", "time to make"):
        table.add_column(heading, justify="left" if heading == "stage" else "right", no_wrap=True)
    unique = {artifact.key: (event, artifact) for event, artifact in reversed(history)}  # the first event of each
    for kind in dict.fromkeys(artifact.kind for _, artifact in history):
        events = [(event, artifact) for event, artifact in unique.values() if artifact.kind == kind]
        built = sum(event == "built" for event, _ in events)
        seconds = sum(artifact.manifest["seconds"] for _, artifact in events)
        table.add_row(kind, str(built), str(len(events) - built), duration(seconds))
    return table


def scores(evaluation: Path) -> Mapping[str, Mapping[str, Any]]:
    """The scores in an evaluation's folder, by domain."""
    domains: dict[str, Mapping[str, Any]] = json.loads((evaluation / "evaluation.json").read_text())["domains"]
    return domains


def scores_table(domains: Mapping[str, Mapping[str, Any]], evaluation: Path) -> Table:
    """One segmenter on every domain, and on every condition of a domain."""
    from evaluation.bootstrap import interval
    from evaluation.image_counts import read_images

    table = Table(title="Scores in percent, at the labels' own size; 95% interval over images")
    for heading in (
        "domain",
        "mIoU",
        "interval",
        "pixels right",
        "boundary error",
        "interior error",
        "calibration error",
    ):
        table.add_column(heading, justify="left" if heading == "domain" else "right")
    table.add_column("images", justify="right")
    table.add_column("network input")
    for name, result in domains.items():
        images = read_images(evaluation, name)
        table.add_row(name, *_score_cells(result, interval(images.confusion)), result["scale"])
        for condition, part in result["conditions"].items():
            table.add_row(f"  {condition}", *_score_cells(part, interval(images.where(condition).confusion)), "")
    return table


def _score_cells(result: Mapping[str, Any], interval: tuple[float, float]) -> Sequence[str]:
    low, high = (_percent(None if math.isnan(end) else end) for end in interval)
    errors = (_percent(result[key]) for key in ("pixel_accuracy", "boundary_error", "interior_error"))
    calibration = _percent(result["calibration"] and result["calibration"]["ece"])
    return f"{_percent(result['miou'])} ({low} to {high})", *errors, calibration, str(result["images"])


def data_table(findings: Sequence["Finding"]) -> Table:
    """What `flexseg data check` found."""
    table = Table(title="Data sets: every file read, every size compared")
    for heading in ("data set", "scenes", "px", "conditions", "labeled px", "classes that do not occur", "problems"):
        table.add_column(heading, justify="right" if heading in ("scenes", "labeled px", "problems") else "left")
    for finding in findings:
        missing = [name for name, count in zip(CLASS_NAMES, finding.pixels, strict=True) if count == 0]
        complete = finding.expected in (None, finding.scenes)
        table.add_row(
            finding.name,
            f"{finding.scenes:,}" + ("" if complete else f" of {finding.expected:,}"),
            " to ".join(f"{width}×{height}" for height, width in finding.sizes),
            ", ".join(f"{name} {count:,}" for name, count in sorted(finding.conditions.items())),
            f"{finding.pixels.sum():,}",
            "all" if len(missing) == len(CLASS_NAMES) else ", ".join(missing) or "none",
            f"{len(finding.problems):,}",
        )
    return table


def classes_table(domains: Mapping[str, Mapping[str, Any]]) -> Table:
    """IoU per class (rows) and domain (columns)."""
    table = Table(title="IoU per class in percent (- where a class occurs neither in labels nor in predictions)")
    table.add_column("class", no_wrap=True)
    for name in domains:
        table.add_column(name, justify="right", no_wrap=True)
    for class_id, class_name in enumerate(CLASS_NAMES):
        table.add_row(class_name, *(_percent(result["iou"][class_id]) for result in domains.values()))
    return table


def methods_table(report: Mapping[str, Any], score: str = "miou") -> Table:
    """A score of each method (rows) on each domain, from the numbers of report.json: mIoU, or the share of wrong pixels
    at boundaries (`boundary_error`) or inside (`interior_error`), as in FLEX-Seg's figure 1."""
    titles = {
        "miou": "mIoU in percent",
        "boundary_error": f"Wrong pixels in percent, within {report['band']} px of another class",
        "interior_error": f"Wrong pixels in percent, farther than {report['band']} px from other classes",
    }
    places = [domain["name"] for domain in report["domains"]]
    places += ["average"] if len(places) > 1 else []
    seeds = max(len(method["seeds"]) for method in report["methods"])
    over = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    table = Table(title=f"{titles[score]}, {over}")
    for heading in ("method", *places):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in report["methods"]:
        stats = [method[score][place] for place in places]
        spreads = ["" if stat["spread"] is None else f" ± {100 * stat['spread']:.1f}" for stat in stats]
        table.add_row(
            method["name"], *(_percent(stat["mean"]) + spread for stat, spread in zip(stats, spreads, strict=True))
        )
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
