"""The experiment as a Prefect flow: Prefect orders the stages, the store alone knows what is done."""

from prefect import flow

from flows import stages
from flows.run import Run
from flows.segmenters import other_models
from flows.server import pages
from flows.tasks import run_name, task
from pipeline.config.experiment import load_config

world, labels, generated = task(stages.world), task(stages.labels), task(stages.generated)
segmenter, evaluation, report = task(stages.segmenter), task(stages.evaluation), task(stages.report)


@flow(name="experiment", flow_run_name=run_name, persist_result=False)
def experiment(config: str = "toy", overrides: list[str] = []) -> Run:
    """From label maps to the report: paint images, train every method, evaluate, compare. Finished stages are taken
    from the store.

    Args:
        config: A preset's name (toy, toy-3-seeds, gta-dginstyle and so on), or the path of a YAML file on the worker.
        overrides: Keys of the config to replace, each as in training.iterations=100.
    """
    run = Run(load_config(config, overrides), pages.track)
    stages.check(run)
    world(run)
    labels(run)
    images = generated(run) if run.config.generation else None
    results = []
    for seed in run.config.training.seeds:
        for method in run.config.training.methods:
            model = segmenter(run, method, seed, images)
            results.append(stages.Result(method, seed, model, evaluation(run, model.key, model.folder / "segmenter")))
    for name, (key, folder) in other_models(run).items():
        results.append(stages.Result(name, 0, None, evaluation(run, key, folder)))
    pages.show_report(report(run, images, results))
    return run
