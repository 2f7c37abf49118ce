"""A signal stops a training whenever it comes (case F18), also where a library has swallowed its exception."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from training import train as module
from training.checkpoints import checkpoints
from training.interrupts import noticed
from training.train import train

CPU = Machine(device="cpu", tracker=None)
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """As `flexseg` sets them: both raise KeyboardInterrupt."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _swallowed(number: int) -> None:
    with suppress(BaseException):  # as a bare except in datasets' update_fingerprint did
        os.kill(os.getpid(), number)


def _stops(config: TrainingConfig, scenes: list[Scene], folder: Path, **options: Any) -> int:
    """How many iterations it came to before it stopped."""
    with pytest.raises(KeyboardInterrupt):
        train(config, Method(), 0, scenes, [], folder, machine=CPU, **options)
    assert not (folder / "segmenter").exists() or checkpoints(folder / "checkpoint")
    found = checkpoints(folder / "checkpoint")
    return int(found[0].name[:9]) if found else 0


@pytest.mark.parametrize(
    ("number", "place"),
    [
        (signal.SIGTERM, "hold_out"),
        (signal.SIGINT, "_pools"),
        (signal.SIGTERM, "build_optimizer"),
        (signal.SIGINT, "start_tracking"),
    ],
)
def test_a_swallowed_signal_stops_the_training_at_its_first_iteration(
    tiny_config: TrainingConfig,
    scenes: list[Scene],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    place: str,
) -> None:
    found: Callable[..., Any] = getattr(module, place)

    def with_signal(*arguments: Any, **options: Any) -> Any:
        _swallowed(number)
        return found(*arguments, **options)

    monkeypatch.setattr(module, place, with_signal)
    assert _stops(tiny_config, scenes, tmp_path) == 1


def test_a_signal_that_is_swallowed_while_labels_are_counted_is_noticed(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    def swallowing(items: Iterable[Any], /, **told: Any) -> Iterator[Any]:
        for item in items:
            if told["description"] != "training":
                _swallowed(signal.SIGTERM)
            yield item

    assert _stops(tiny_config, scenes, tmp_path, progress=swallowing) == 1


def test_a_signal_in_preparation_acts_at_once(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "build_optimizer", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert _stops(tiny_config, scenes, tmp_path) == 0


def test_a_signal_that_is_swallowed_at_the_end_keeps_the_checkpoint(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "draw_learning_curve", lambda *_: _swallowed(signal.SIGTERM))
    short = tiny_config.model_copy(update={"iterations": 3})
    assert _stops(short, scenes, tmp_path) == 3
    monkeypatch.undo()
    train(short, Method(), 0, scenes, [], tmp_path, machine=CPU)
    assert (tmp_path / "segmenter").is_dir() and not (tmp_path / "checkpoint").exists()


def test_within_a_step_the_first_signal_waits_and_the_second_acts() -> None:
    with noticed() as interrupts:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.came
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_ignored_signals_stay_ignored_and_others_handlers_act() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with noticed() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupts.came
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.came and heard == [signal.SIGTERM]
