"""What the commands print: tables for the terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.labels import CLASS_NAMES
from pipeline.progress import duration
from pipeline.records import GenerationRequest
from pipeline.store import Artifact, Event


def plan_table(requests: Iterable[GenerationRequest]) -> Table:
    """How many images are asked for, by class (rows) and condition (columns)."""
    counts: dict[tuple[int, str], int] = {}
    for request in requests:
        place = (request.class_id, request.condition)
        counts[place] = counts.get(place, 0) + 1
    conditions = list(dict.fromkeys(condition for _, condition in counts))
    table = Table(title="Images to generate, by the class that was asked for and by condition")
    for heading in ("class", *conditions, "all"):
        table.add_column(heading, justify="left" if heading == "class" else "right", no_wrap=True)
    for class_id in sorted({class_id for class_id, _ in counts}):
        row = [counts.get((class_id, condition), 0) for condition in conditions]
        table.add_row(CLASS_NAMES[class_id], *map(str, row), str(sum(row)))
    totals = [sum(count for (_, c), count in counts.items() if c == condition) for condition in conditions]
    table.add_section()
    table.add_row("all", *map(str, totals), str(sum(totals)))
    return table


def cache_table(entries: Iterable[tuple[str, str, Artifact | None]]) -> Table:
    """(what, key, artifact or None): what the store holds already."""
    table = Table(title="What the cache holds")
    for heading in ("what", "key", "state"):
        table.add_column(heading, no_wrap=True)
    for what, key, artifact in entries:
        table.add_row(
            what, key[:16], f"made, took {duration(artifact.manifest['seconds'])}" if artifact else "to be made"
        )
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


def scores_table(domains: Mapping[str, Mapping[str, Any]]) -> Table:
    """One segmenter on every domain."""
    table = Table(title="Scores in percent, at the labels' own size")
    for heading in ("domain", "mIoU", "pixel accuracy", "boundary error", "interior error", "images", "network input"):
        table.add_column(heading, justify="left" if heading in ("domain", "network input") else "right")
    for name, result in domains.items():
        numbers = [_percent(result[key]) for key in ("miou", "pixel_accuracy", "boundary_error", "interior_error")]
        table.add_row(name, *numbers, str(result["images"]), result["scale"])
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


def methods_table(report: Mapping[str, Any]) -> Table:
    """mIoU of each method (rows) on each domain, from the numbers of report.json."""
    places = [*(domain["name"] for domain in report["domains"]), "average"]
    seeds = max(len(method["seeds"]) for method in report["methods"])
    over = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    table = Table(title=f"mIoU in percent, {over}")
    for heading in ("method", *places):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in report["methods"]:
        stats = [method["miou"][place] for place in places]
        spreads = ["" if stat["spread"] is None else f" ± {100 * stat['spread']:.1f}" for stat in stats]
        table.add_row(
            method["name"], *(_percent(stat["mean"]) + spread for stat, spread in zip(stats, spreads, strict=True))
        )
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
