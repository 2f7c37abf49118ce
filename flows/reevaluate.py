"""Every registered model on every data set that is there, against its baseline: a Prefect flow for schedules."""

import traceback

from prefect import flow
from pydantic import NonNegativeFloat

from flows import stages
from flows.registered_models import GateError, failed, judge, present, registered, summary
from flows.run import Run
from flows.segmenters import find_model
from flows.server import pages
from flows.server.notify import notification_block, send
from flows.tasks import run_name, task
from pipeline.config.experiment import load_config
from pipeline.errors import UserError

world, evaluation = task(stages.world), task(stages.evaluation)


@flow(name="reevaluate", flow_run_name=run_name, persist_result=False)
def reevaluate(
    config: str = "toy", overrides: list[str] = [], max_drop: NonNegativeFloat = 0.5, notify: str | None = None
) -> None:
    """Every registered model on every data set that is there. The run fails, once all are scored, if a model is
    significantly worse than its baseline or cannot be scored.

    Args:
        config: A preset's name (toy, toy-3-seeds, gta-dginstyle and so on), or the path of a YAML file on the worker.
        overrides: Keys of the config to replace, each as in training.iterations=100.
        max_drop: Points of mIoU that a model may fall below its baseline, on each domain and in the mean.
        notify: A notification block to tell the outcome, as block-type/name: slack-webhook/team. Left empty, nobody.
    """
    block = notification_block(notify) if notify else None
    run = Run(load_config(config, overrides), pages.track)
    models = registered(run.store)
    world(run)
    run, missing = present(run)
    verdicts = []
    for model in models:
        try:
            scored = evaluation(run, *find_model(run.store, model.model))
            verdicts.append(judge(run.store, model, scored, max_drop))
        except Exception as error:  # the other models are scored all the same
            if not isinstance(error, UserError):  # a defect of ours: what the last line says would not tell where
                traceback.print_exc()
            verdicts.append(failed(model, error))
    headline, text = summary(verdicts, missing)
    pages.show_verdicts(verdicts, headline, text)
    if block is not None:
        send(block, text, headline)
    if not all(verdict.passed for verdict in verdicts):
        raise GateError(headline)
