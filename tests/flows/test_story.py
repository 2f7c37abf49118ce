"""An experiment is gone through without Prefect only where nothing has to be built."""

from collections.abc import Callable

from flows import stages, story
from flows.run import Run
from pipeline.config.experiment import ExperimentConfig


def test_nothing_is_built_to_find_out_that_something_is_missing(mini: Callable[..., ExperimentConfig]) -> None:
    run = Run(mini())
    assert not story.finished(run)
    assert run.history == [], "toy town was not rendered"
    world = stages.world(run)
    assert run.history == [("built", world)], "afterwards it builds again"
    assert not story.finished(run)
    assert [artifact.kind for _, artifact in run.history] == ["world"]
    assert not list(run.store.root.glob("*/*/manifest.json"))[1:]
