"""New images for an existing model, beside those that are there: a Prefect flow."""

from prefect import flow
from pydantic import NonNegativeFloat, NonNegativeInt

from flows import data_stages, stages
from flows.regenerations import asked, regenerations
from flows.run import Run
from flows.server import pages
from flows.tasks import run_name, task
from pipeline.config.experiment import load_config

world, statistics, generated = task(stages.world), task(data_stages.class_statistics), task(stages.generated)


@flow(name="regenerate", flow_run_name=run_name, persist_result=False)
def regenerate(
    config: str = "toy",
    overrides: list[str] = [],
    counts: dict[str, NonNegativeInt] = {},
    classes: dict[str, NonNegativeFloat] = {},
) -> list[str]:
    """New images for an existing model, by class, condition or count: a data set of its own that adds to what exists.
    Returns the folders of all regenerations of the config.

    Args:
        config: A preset's name (toy, toy-3-seeds, gta-dginstyle and so on), or the path of a YAML file on the worker.
        overrides: Keys of the config to replace, each as in training.iterations=100.
        counts: New images of each condition, for instance {"night": 200}. Left empty, as many as the config has.
        classes: Shares of the new images that are asked for a class, for instance {"rider": 1.0}.
    """
    run = Run(load_config(config, overrides), pages.track)
    _ = run.weights_key
    further = Run(load_config(config, [*overrides, *asked(run, counts, classes)]), pages.track)
    world(run)
    statistics(further)
    images = generated(further)
    folders = [str(folder) for folder in regenerations(run)]
    pages.show_images(images, folders)
    return folders
