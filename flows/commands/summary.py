"""What the commands say: summaries of runs, plans, evaluations and data sets."""

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evaluation.report_schema import read_report
from evaluation.schema import SkippedScene, read_evaluation
from flows import recipes, stages
from flows.commands.tables import CacheRow, cache_table, data_table, plan_table, quality_table, stages_table
from flows.commands.trainings import trainings_text
from flows.run import Run
from flows.score_tables import classes_table, methods_table, scores_table
from flows.tables import console
from pipeline.files import file_stem
from pipeline.store.artifacts import Artifact
from pipeline.work.progress import duration

SHOWN_FILES = 5


def print_summary(run: Run) -> bool:
    """After `flexseg run`: time per stage, the table of methods and domains, where the report is. False if files of the
    targets had to be skipped."""
    out = console()
    artifact = next(artifact for _, artifact in reversed(run.history) if artifact.kind == recipes.REPORT.name)
    report = read_report(artifact.folder)
    out.print(stages_table(run.history))
    for score in ("miou", "boundary_error", "interior_error"):
        out.print(methods_table(report, score))
    for domain in report.domains:
        _print_skipped(domain.name, domain.skipped)
    if all(event == "cached" for event, _ in run.history):
        out.print("Every stage was in the cache, nothing was built.")
    place = linked(run.config.machine.output, run.config.name, artifact.folder)
    out.print(f"Report: {place / 'index.html'}", soft_wrap=True)
    return not any(domain.skipped for domain in report.domains)


def print_plan(run: Run, *, measure: bool = False) -> list[str]:
    """`flexseg plan`: images by class and condition, how many and how long, what the cache holds. Returns what it does
    not hold."""
    out = console()
    unfinished: dict[str, str] = {}
    if run.config.generation is not None:
        if run.config.data.toytown is None or run.world is not None:
            unfinished = _print_requests(run, out, measure=measure)
        else:
            _print_counts(run, out)
    rows = [
        CacheRow(what, run.key(recipe), run.store.find(*recipe), unfinished.get(what, ""))
        for what, recipe in recipes.recipes(run)
    ]
    out.print(cache_table(rows))
    if left := sum(row.what.startswith("segmenter") and row.artifact is None for row in rows):
        out.print(trainings_text(run.config, left), soft_wrap=True)
    return [row.what for row in rows if row.artifact is None]


def print_costs(run: Run, missing: Sequence[str], card: str | None, utilisation: float) -> None:
    """`flexseg plan --cost`: what the missing stages would cost on a card, or on the one that is here."""
    from flows.commands.costs import basis, card_here, costs_table, stage_costs
    from pipeline.work.cost import find_card

    out = console()
    chosen = find_card(card) if card is not None else card_here()
    if not missing:
        out.print("Everything is made: nothing would be computed.")
        return
    out.print(costs_table(list(stage_costs(run, missing)), chosen, utilisation))
    out.print(basis(chosen, utilisation), soft_wrap=True)


def _print_counts(run: Run, out: Console) -> None:
    """What is to be painted as far as the config tells it: rendering toy town for more would be work of its own."""
    counts = {name: count for name, count in run.generation.counts.items() if count}
    height, width = run.generation.size
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    out.print(f"{sum(counts.values()):,} images of {width}x{height} px: {shown}", soft_wrap=True)
    out.print(
        "Toy town is not rendered yet. Which classes are asked for, and on which label maps, is planned once it is:"
        " flexseg generate or flexseg run do that first, --write and --measure do it here.",
        soft_wrap=True,
    )


def _print_requests(run: Run, out: Console, *, measure: bool) -> dict[str, str]:
    """What is to be painted and how long that will take. Returns what there is of it, under the recipe's name."""
    from flows.commands.painting_rate import known_rate, measured_rate
    from generation.plan import read_plan
    from generation.shards import split

    section = run.generation
    requests = read_plan(stages.planned(run).folder)
    out.print(plan_table(requests))
    height, width = section.size
    sources = len({request.source for request in requests})
    recipe = recipes.generated_recipe(run)
    shards = split(requests, section.shard_size, run.store.partial(*recipe))
    done = [shard for shard in shards if shard.done]
    out.print(
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
    out.print(f"Images per second: {speed}", soft_wrap=True)
    return {"generated images": f"{len(done)} of {len(shards)} shards made"} if done else {}


def print_evaluation(evaluation: Artifact) -> bool:
    """`flexseg evaluate`: scores per domain and class. False if files had to be skipped."""
    out = console()
    scores = read_evaluation(evaluation.folder)
    out.print(classes_table(scores))
    out.print(scores_table(scores, evaluation.folder))
    out.print(f"Predictions and numbers: {evaluation.folder}", soft_wrap=True)
    for name, domain in scores.domains.items():
        _print_skipped(name, domain.skipped)
    return not any(domain.skipped for domain in scores.domains.values())


def print_quality(quality: Artifact) -> None:
    """`flexseg weights measure`: how the oracle and the weather classifier read generated images and true renders."""
    from flows.commands.weights_quality import QUALITY_FILE, read_quality

    out = console()
    result = read_quality(quality.folder)
    out.print(quality_table(result))
    out.print(f"The oracle reads generated images with {100 * result.miou_ratio:.1f}% of its mIoU on true ones.")
    out.print(f"Numbers: {quality.folder / QUALITY_FILE}", soft_wrap=True)


def print_data(run: Run) -> bool:
    """`flexseg data check`: what each data set holds, and what is wrong with it. False if anything is."""
    from flows.commands.data_check import check_data

    findings = check_data(run)
    console().print(data_table(findings))
    for finding in findings:
        _print_some(finding.name, list(finding.problems), "problems")
    return not any(finding.problems for finding in findings)


def linked(output: Path, name: str, report: Path) -> Path:
    """Points the link `output/NAME` at a report's folder in the store. Gives the link, else the folder itself.

    Only the link of an earlier report is replaced: anything else in its place is the user's and stays.
    """
    link = output.absolute() / file_stem(name)
    new = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(link) and not (link.is_symlink() and _is_a_report(link.readlink())):
            return report
        new.symlink_to(report, target_is_directory=True)
        os.replace(new, link)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        return report
    return link


def _is_a_report(target: Path) -> bool:
    """Whether a path leads to a report in a store, to judge by its names alone: it may have been deleted meanwhile."""
    return target.parent.name == recipes.REPORT.name and re.fullmatch(r"[0-9a-f]{16,64}", target.name) is not None


def _print_skipped(domain: str, skipped: Sequence[SkippedScene]) -> None:
    _print_some(domain, [f"skipped {scene.reason}" for scene in skipped], "skipped files")


def _print_some(domain: str, lines: list[str], what: str) -> None:
    """The first lines, and how many more there are."""
    for line in lines[:SHOWN_FILES]:
        print(f"flexseg: {line}" if line.startswith(f"{domain}: ") else f"flexseg: {domain}: {line}", file=sys.stderr)
    if len(lines) > SHOWN_FILES:
        print(f"flexseg: {domain}: and {len(lines) - SHOWN_FILES} more {what}", file=sys.stderr)
