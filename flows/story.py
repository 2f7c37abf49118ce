"""What an experiment does, in its order, told once: for Prefect's flow, and for a run that has nothing to build."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, TypeVar, TypeVarTuple

from flows import data_stages, recipes, stages
from flows.run import NothingBuiltError, Run
from pipeline.store.artifacts import Artifact

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class Via(Protocol):
    """How a stage is called: `flows.tasks.task` makes it a Prefect task, `directly` leaves it as it is."""

    def __call__(self, stage: Callable[[Run, *Ts], R], /) -> Callable[[Run, *Ts], R]: ...


def directly(stage: Callable[[Run, *Ts], R], /) -> Callable[[Run, *Ts], R]:
    """The stage itself: a `Via` without Prefect, retries and limits; `flows.retries.persistently` has the retries."""
    return stage


Together = Callable[[Mapping[str, Callable[[], stages.Result]]], list[stages.Result]]
"""Calls named functions and gives their results in order, in turn or side by side."""


def in_turn(rows: Mapping[str, Callable[[], stages.Result]]) -> list[stages.Result]:
    """One after the other."""
    return [row() for row in rows.values()]


def experiment(run: Run, via: Via, together: Together = in_turn) -> Artifact:
    """From label maps to the report, which it returns: paint images, train every method, evaluate, compare. `together`
    makes the rows of the report that are not there yet."""
    via(stages.world)(run)
    via(data_stages.labels)(run)
    images = via(stages.generated)(run) if run.config.generation else None
    scored = stages.Images(images, via(stages.alignment)(run, images.key, images.folder)) if images else None
    segmenter, evaluation = via(stages.segmenter), via(stages.evaluation)

    def row(method: str, seed: int) -> stages.Result:
        model = segmenter(run, method, seed, images)
        return stages.Result(method, seed, model, evaluation(run, model.key, model.folder / "segmenter"))

    rows = [(method, seed) for seed in run.config.training.seeds for method in run.config.training.methods]
    missing = [pair for pair in rows if not _made(run, *pair)]
    made = dict(zip(missing, together({f"{m}, seed {s}": partial(row, m, s) for m, s in missing}), strict=True))
    results = [made[pair] if pair in made else row(*pair) for pair in rows]
    for name, (key, folder) in run.other_models.items():
        results.append(stages.Result(name, 0, None, evaluation(run, key, folder)))
    return via(stages.report)(run, scored, results)


def _made(run: Run, method: str, seed: int) -> bool:
    """Whether the row's segmenter and its scores are on this machine."""
    model = recipes.segmenter_recipe(run, method, seed)
    return run.store.has(*model) and run.store.has(*recipes.evaluation_recipe(run, run.key(model)))


def finished(run: Run) -> bool:
    """Goes through the whole experiment if every artifact of it is on this machine; False where one is missing.

    It imports neither Prefect nor torch and starts no server, which take most of the time of such a run. What is
    there is looked for first, because opening an artifact reads all of its files.
    """
    run.builds = False
    try:
        if not all(run.store.has(*recipe) for _, recipe in recipes.recipes(run)):
            return False
        experiment(run, directly)
    except NothingBuiltError:
        return False
    finally:
        run.builds = True
    return True
