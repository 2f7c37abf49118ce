"""Single commands try a stage again as a flow does; a defect keeps its traceback; checks run once."""

from collections.abc import Callable
from typing import Any

import pytest

from flows.registered_models import Model, failed
from flows.retries import persistently
from flows.run import Run, handed_over, taken_over
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import TryAgainError, UserError

Mini = Callable[..., ExperimentConfig]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited before each further try."""
    waited: list[float] = []
    monkeypatch.setattr("flows.retries.time.sleep", waited.append)
    return waited


def failing(*errors: Exception) -> tuple[Callable[[Run], str], list[int]]:
    """A stage that fails so one time after the other, then works; and the number of its calls."""
    left, calls = list(errors), [0]

    def stage(run: Run) -> str:
        calls[0] += 1
        if left:
            raise left.pop(0)
        return "made"

    return stage, calls


def test_what_may_pass_is_tried_again(mini: Mini, waits: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    stage, calls = failing(TryAgainError("killed"), TryAgainError("killed"), ConnectionResetError(104, "reset"))
    assert persistently(stage)(Run(mini("machine.retries=3"))) == "made"
    assert calls == [4] and waits == [10.0, 20.0, 40.0]
    assert capsys.readouterr().err.splitlines()[0] == "flexseg: killed; stage 'stage' is tried again in 10.0 s"


@pytest.mark.parametrize("retried", [0, 2])
def test_not_more_often_than_the_machine_says(mini: Mini, waits: list[float], retried: int) -> None:
    stage, calls = failing(*[TryAgainError(str(k)) for k in range(9)])
    with pytest.raises(TryAgainError, match=f"^{retried}$"):
        persistently(stage)(Run(mini(f"machine.retries={retried}")))
    assert calls == [retried + 1] and len(waits) == retried


@pytest.mark.parametrize("error", [UserError("a typo"), ValueError("a defect"), RuntimeError(""), AssertionError()])
def test_mistakes_and_defects_are_not_tried_again(mini: Mini, waits: list[float], error: Exception) -> None:
    stage, calls = failing(error)
    with pytest.raises(type(error)) as caught:
        persistently(stage)(Run(mini("machine.retries=5")))
    assert caught.value is error and calls == [1] and waits == []


def test_a_flow_takes_the_run_that_was_checked(mini: Mini) -> None:
    assert taken_over() is None
    run = Run(mini())
    run.history.append(("cached", Any))  # type: ignore[arg-type]  # what it is does not count
    with handed_over(run):
        assert taken_over() is run and run.history == []
    assert taken_over() is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("the folder\nis gone"), "the folder is gone"),
        (ValueError(""), "a defect of flexseg, its traceback is in the log: ValueError: ValueError"),
        (RuntimeError("worker failed:\nTraceback\n  line 3"), "RuntimeError: worker failed: Traceback line 3"),
    ],
)
def test_why_a_model_was_not_scored(error: Exception, said: str) -> None:
    (line,) = failed(Model(name="mine", model="m", baseline=None), error).lines
    assert said in line and "\n" not in line
