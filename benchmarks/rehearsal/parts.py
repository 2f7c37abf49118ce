"""What each part of a rehearsed experiment took, by the store's manifests and by what was seen of its processes."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from benchmarks.record import NOT_MEASURED, Row
from benchmarks.rehearsal.memory import Look, spent
from flows.recipes import class_statistics_recipe, plan_recipe, recipes
from flows.run import Recipe, Run
from pipeline.config.experiment import load_config


def rows(preset: str, config: Path, looks: Sequence[Look], flops: dict[str, float]) -> Iterator[Row]:
    """A row per part, in the order in which they are made. flops: TFLOP of a part by its name, where they are known.

    Seconds are the manifest's, over all attempts; memory and processor time those that were seen meanwhile.
    """
    run = Run(load_config(config))
    for name, recipe in named(run):
        artifact = run.store.find(*recipe)
        if artifact is None:
            continue
        manifest = artifact.manifest
        seen = spent(looks, datetime.fromisoformat(manifest.started), datetime.fromisoformat(manifest.finished))
        yield {
            "preset": preset,
            "part": name,
            "s": manifest.seconds,
            "processor s": NOT_MEASURED if seen is None else seen.processor,
            "peak GB": NOT_MEASURED if seen is None else seen.memory / 1e9,
            "TFLOP": flops.get(name, NOT_MEASURED),
            "commit": (manifest.git_commit or "unknown")[:10],
        }


def named(run: Run) -> Iterator[tuple[str, Recipe]]:
    """Every part of an experiment by its name, but for the report, which is made from all of them."""
    yield "class statistics", class_statistics_recipe(run)
    yield "plan", plan_recipe(run)
    yield from recipes(run)
