"""The experiment as a Prefect flow: Prefect orders the stages, the store alone knows what is done."""

from functools import partial

from prefect import flow

from flows import stages, story
from flows.run import Run, taken_over
from flows.server import pages
from flows.side_by_side import rows_side_by_side, slots
from flows.tasks import run_name, task
from pipeline.config.experiment import load_config


@flow(name="experiment", flow_run_name=run_name, persist_result=False)
def experiment(config: str = "toy", overrides: list[str] = []) -> Run:
    """From label maps to the report: paint images, train every method, evaluate, compare. Finished stages are taken
    from the store.

    Args:
        config: A preset's name (toy, toy-3-seeds, gta-dginstyle and so on), or the path of a YAML file on the worker.
        overrides: Keys of the config to replace, each as in training.iterations=100.
    """
    run = taken_over()
    if run is None:
        run = Run(load_config(config, overrides))
        stages.check(run)
    run.progress = pages.track
    together = partial(rows_side_by_side, given=slots(run.config.machine))
    pages.show_report(story.experiment(run, task, together))
    return run
