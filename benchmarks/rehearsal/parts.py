"""What each part of a rehearsed experiment took, by the store's manifests and by what was seen of its processes."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from benchmarks.record import NOT_MEASURED, Row
from benchmarks.rehearsal.flops import costs
from benchmarks.rehearsal.memory import Look, spent
from flows.recipes import class_statistics_recipe, plan_recipe, recipes
from flows.run import Recipe, Run
from pipeline.config.experiment import load_config


def rows(preset: str, config: Path, looks: Sequence[Look]) -> Iterator[Row]:
    """A row per part that is in the store, in the order in which they are made.

    Seconds are the manifest's, over all attempts; memory and processor time those that were seen meanwhile; FLOPs, and
    the memory that networks and their values would take on a GPU, are counted.
    """
    run = Run(load_config(config))
    counted = dict(costs(run))
    for name, recipe in named(run):
        artifact = run.store.find(*recipe)
        if artifact is None:
            continue
        manifest = artifact.manifest
        seen = spent(looks, datetime.fromisoformat(manifest.started), datetime.fromisoformat(manifest.finished))
        cost = counted.get(name)
        yield {
            "preset": preset,
            "part": name,
            "s": manifest.seconds,
            "processor s": NOT_MEASURED if seen is None else seen.processor,
            "peak GB": NOT_MEASURED if seen is None else seen.memory / 1e9,
            "TFLOP": "-" if cost is None else cost.flops / 1e12,
            "GB on a GPU, counted": "-" if cost is None else cost.memory / 1e9,
            "commit": (manifest.git_commit or "unknown")[:10],
        }


def named(run: Run) -> Iterator[tuple[str, Recipe]]:
    """Every part of an experiment by its name, but for the report, which is made from all of them."""
    yield "class statistics", class_statistics_recipe(run)
    yield "plan", plan_recipe(run)
    yield from recipes(run)
