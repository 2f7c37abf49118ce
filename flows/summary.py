"""What the commands say: summaries of runs, plans, evaluations and data sets."""

import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from flows import stages
from flows.run import Run
from flows.tables import cache_table, classes_table, methods_table, plan_table, scores, scores_table, stages_table
from pipeline.labels import CLASS_NAMES
from pipeline.store import Artifact

SHOWN_FILES = 5


def print_summary(run: Run) -> None:
    """After `flexseg run`: time per stage, the table of methods and domains, where the report is."""
    console = Console()
    report = next(artifact for _, artifact in reversed(run.history) if artifact.kind == stages.REPORT.name)
    numbers = json.loads((report.folder / "report.json").read_text())
    console.print(stages_table(run.history))
    console.print(methods_table(numbers))
    for domain in numbers["domains"]:
        _print_skipped(domain["name"], domain["skipped"])
    if all(event == "cached" for event, _ in run.history):
        console.print("Every stage was in the cache, nothing was built.")
    link = run.config.machine.output.absolute() / run.config.name
    console.print(f"Report: {_link(link, report) / 'index.html'}", soft_wrap=True)


def print_plan(run: Run) -> None:
    """`flexseg plan`: images by class and condition, their size, what the cache holds."""
    console = Console()
    if run.config.generation is not None:
        from generation.plan import plan

        height, width = run.generation.size
        requests = plan(run.generation, run.source.scenes, progress=run.progress)
        console.print(plan_table(requests))
        megabytes = len(requests) * height * width * 3 / 1e6
        console.print(f"{len(requests)} images of {width}x{height} px, {megabytes:.1f} MB before compression")
    entries = [(what, run.key(recipe), run.store.find(*recipe)) for what, recipe in stages.recipes(run)]
    console.print(cache_table(entries))


def print_evaluation(evaluation: Artifact) -> bool:
    """`flexseg evaluate`: scores per domain and class. False if files had to be skipped."""
    console = Console()
    domains = scores(evaluation.folder)
    console.print(classes_table(domains))
    console.print(scores_table(domains))
    console.print(f"Predictions and numbers: {evaluation.folder}", soft_wrap=True)
    for name, result in domains.items():
        _print_skipped(name, result["skipped"])
    return not any(result["skipped"] for result in domains.values())


def print_quality(quality: Artifact) -> None:
    """`flexseg weights measure`: how the oracle and the weather classifier read generated images and true renders."""
    console = Console()
    result = json.loads((quality.folder / "quality.json").read_text())
    table = Table(title=f"{result['images']} generated images beside true renders of the same label maps")
    for heading in ("read by", "of", "generated", "true"):
        table.add_column(heading, justify="right" if heading in ("generated", "true") else "left")
    readers = {
        "oracle's mIoU": ("miou", "miou_by_condition"),
        "weather classifier": ("weather_accuracy", "weather_accuracy_by_condition"),
    }
    for reader, (overall, by_condition) in readers.items():
        rows = {"all": [result[kind][overall] for kind in ("generated", "true")]}
        rows |= {
            name: [result[kind][by_condition][name] for kind in ("generated", "true")]
            for name in result["true"][by_condition]
        }
        for name, values in rows.items():
            table.add_row(reader, name, *(f"{100 * value:.1f}" for value in values))
        table.add_section()
    console.print(table)
    console.print(f"The oracle reads generated images with {100 * result['miou_ratio']:.1f}% of its mIoU on true ones.")
    console.print(f"Numbers: {quality.folder / 'quality.json'}", soft_wrap=True)


def print_data(run: Run) -> None:
    """`flexseg data check`: what each data set holds."""
    console = Console()
    data = run.config.data
    table = Table(title="Data sets: every label map read, every size compared")
    for heading in ("data set", "scenes", "labeled px", "classes that do not occur"):
        table.add_column(heading, justify="right" if heading in ("scenes", "labeled px") else "left")
    domains = [run.source] if data.toytown or data.source else []
    for domain in domains + (list(run.targets) if data.toytown or data.targets else []):
        if domain.scenes[0].image is not None:
            stages.check_images(domain)
        pixels = np.load(stages.class_statistics(run, domain).folder / "class_pixels.npy").sum(0)
        missing = [name for name, count in zip(CLASS_NAMES, pixels, strict=True) if count == 0]
        table.add_row(domain.name, str(len(domain.scenes)), f"{pixels.sum():,}", ", ".join(missing) or "none")
    console.print(table)


def _link(link: Path, report: Artifact) -> Path:
    """Points the link `machine.output/NAME` at the report; the report's own folder where that cannot be."""
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            link.unlink()
        link.symlink_to(report.folder, target_is_directory=True)
    except OSError:
        return report.folder
    return link


def _print_skipped(domain: str, skipped: list[dict[str, str]]) -> None:
    for entry in skipped[:SHOWN_FILES]:
        print(f"flexseg: {domain}: skipped {entry['reason']}", file=sys.stderr)
    if len(skipped) > SHOWN_FILES:
        print(f"flexseg: {domain}: and {len(skipped) - SHOWN_FILES} more skipped files", file=sys.stderr)
