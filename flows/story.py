"""What an experiment does, in its order, told once: for Prefect's flow, and for a run that has nothing to build."""

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

from flows import data_stages, recipes, stages
from flows.run import NothingBuiltError, Run
from flows.segmenters import other_models
from pipeline.store.artifacts import Artifact

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class Via(Protocol):
    """How a stage is called: `flows.tasks.task` makes it a Prefect task, `directly` leaves it as it is."""

    def __call__(self, stage: Callable[[Run, *Ts], R], /) -> Callable[[Run, *Ts], R]: ...


def directly(stage: Callable[[Run, *Ts], R], /) -> Callable[[Run, *Ts], R]:
    """The stage itself: a `Via` without Prefect, its retries and its time limits."""
    return stage


def experiment(run: Run, via: Via) -> Artifact:
    """From label maps to the report, which it returns: paint images, train every method, evaluate, compare."""
    via(stages.world)(run)
    via(data_stages.labels)(run)
    images = via(stages.generated)(run) if run.config.generation else None
    scored = stages.Images(images, via(stages.alignment)(run, images.key, images.folder)) if images else None
    segmenter, evaluation = via(stages.segmenter), via(stages.evaluation)
    results = []
    for seed in run.config.training.seeds:
        for method in run.config.training.methods:
            model = segmenter(run, method, seed, images)
            results.append(stages.Result(method, seed, model, evaluation(run, model.key, model.folder / "segmenter")))
    for name, (key, folder) in other_models(run).items():
        results.append(stages.Result(name, 0, None, evaluation(run, key, folder)))
    return via(stages.report)(run, scored, results)


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
