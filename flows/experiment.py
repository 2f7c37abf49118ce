"""The experiment as a Prefect flow: Prefect orders the stages, the store alone knows what is done."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import Task, flow
from prefect.cache_policies import NO_CACHE

from flows import stages
from flows.models import other_models
from flows.run import Run
from pipeline.config.experiment import ExperimentConfig
from pipeline.progress import bar

P = ParamSpec("P")
R = TypeVar("R")


def _task(stage: Callable[P, R]) -> Task[P, R]:
    return Task(stage, cache_policy=NO_CACHE, persist_result=False)


world, labels, generated = _task(stages.world), _task(stages.labels), _task(stages.generated)
segmenter, evaluation, report = _task(stages.segmenter), _task(stages.evaluation), _task(stages.report)


@flow(name="experiment", persist_result=False, validate_parameters=False)
def experiment(config: ExperimentConfig) -> Run:
    """From label maps to the report. What is in the store already is taken from there."""
    run = Run(config, bar)
    stages.check(run)
    world(run)
    labels(run)
    images = generated(run) if config.generation else None
    results = []
    for seed in config.training.seeds:
        for method in config.training.methods:
            model = segmenter(run, method, seed, images)
            results.append(stages.Result(method, seed, model, evaluation(run, model.key, model.folder / "segmenter")))
    for name, (key, folder) in other_models(run).items():
        results.append(stages.Result(name, 0, None, evaluation(run, key, folder)))
    report(run, images, results)
    return run
