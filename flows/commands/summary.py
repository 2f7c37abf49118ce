"""What the commands say: summaries of runs, plans, evaluations and data sets."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flows import stages
from flows.run import Run
from flows.tables import (
    cache_table,
    classes_table,
    data_table,
    methods_table,
    plan_table,
    scores,
    scores_table,
    stages_table,
)
from pipeline.store.artifacts import Artifact
from pipeline.work.progress import duration

SHOWN_FILES = 5


def print_summary(run: Run) -> bool:
    """After `flexseg run`: time per stage, the table of methods and domains, where the report is. False if files of the
    targets had to be skipped."""
    console = Console()
    report = next(artifact for _, artifact in reversed(run.history) if artifact.kind == stages.REPORT.name)
    numbers = json.loads((report.folder / "report.json").read_text())
    console.print(stages_table(run.history))
    for score in ("miou", "boundary_error", "interior_error"):
        console.print(methods_table(numbers, score))
    for domain in numbers["domains"]:
        _print_skipped(domain["name"], domain["skipped"])
    if all(event == "cached" for event, _ in run.history):
        console.print("Every stage was in the cache, nothing was built.")
    link = run.config.machine.output.absolute() / run.config.name
    console.print(f"Report: {_link(link, report) / 'index.html'}", soft_wrap=True)
    return not any(domain["skipped"] for domain in numbers["domains"])


def print_plan(run: Run, *, measure: bool = False) -> None:
    """`flexseg plan`: images by class and condition, how many and how long, what the cache holds."""
    console = Console()
    unfinished: dict[str, str] = {}
    if run.config.generation is not None:
        unfinished = _print_requests(run, console, measure=measure)
    recipes = list(stages.recipes(run))
    entries = [(what, run.key(recipe), run.store.find(*recipe), unfinished.get(what, "")) for what, recipe in recipes]
    console.print(cache_table(entries))


def _print_requests(run: Run, console: Console, *, measure: bool) -> dict[str, str]:
    """What is to be painted and how long that will take. Returns what there is of it, under the recipe's name."""
    from flows.commands.painting_rate import known_rate, measured_rate
    from generation.plan import read_plan
    from generation.shards import split

    section = run.generation
    requests = read_plan(stages.planned(run).folder)
    console.print(plan_table(requests))
    height, width = section.size
    sources = len({request.source for request in requests})
    recipe = stages.generated_recipe(run)
    shards = split(requests, section.shard_size, run.store.partial(*recipe))
    done = [shard for shard in shards if shard.done]
    console.print(
        f"{len(requests)} images of {width}x{height} px on {sources} of {len(run.source.scenes)} label maps, in"
        f" {len(shards)} shards; {len(requests) * height * width * 3 / 1e6:.1f} MB before compression",
        soft_wrap=True,
    )
    rate = measured_rate(run, requests) if measure else known_rate(run)
    left = 0 if run.store.find(*recipe) else len(requests) - sum(shard.items for shard in done)
    if rate is None:
        speed = "not yet measured; 'flexseg plan CONFIG --measure' paints one batch for it"
    else:
        time = f"the {left} images that are left take about {duration(left / rate.images)}" if left else "none is left"
        speed = f"{rate.images:.3g} ({rate.source}); {time}"
    console.print(f"Images per second: {speed}", soft_wrap=True)
    return {"generated images": f"{len(done)} of {len(shards)} shards made"} if done else {}


def print_evaluation(evaluation: Artifact) -> bool:
    """`flexseg evaluate`: scores per domain and class. False if files had to be skipped."""
    console = Console()
    domains = scores(evaluation.folder)
    console.print(classes_table(domains))
    console.print(scores_table(domains, evaluation.folder))
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


def print_data(run: Run) -> bool:
    """`flexseg data check`: what each data set holds, and what is wrong with it. False if anything is."""
    from flows.commands.data_check import check_data

    findings = check_data(run)
    Console().print(data_table(findings))
    for finding in findings:
        _print_some(finding.name, list(finding.problems), "problems")
    return not any(finding.problems for finding in findings)


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
    _print_some(domain, [f"skipped {entry['reason']}" for entry in skipped], "skipped files")


def _print_some(domain: str, lines: list[str], what: str) -> None:
    """The first lines, and how many more there are."""
    for line in lines[:SHOWN_FILES]:
        print(f"flexseg: {line}" if line.startswith(f"{domain}: ") else f"flexseg: {domain}: {line}", file=sys.stderr)
    if len(lines) > SHOWN_FILES:
        print(f"flexseg: {domain}: and {len(lines) - SHOWN_FILES} more {what}", file=sys.stderr)
