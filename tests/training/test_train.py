"""The whole loop on a tiny world: the same losses however it is run, and it learns."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.image_files import read_image
from pipeline.errors import UserError
from training.checkpoints import checkpoints
from training.networks import Segmenter
from training.pools import GeneratedPool
from training.predict import predictor
from training.train import train
from training.validation import hold_out

T = TypeVar("T")
CPU = Machine(device="cpu")
FLEX = Method(generated=True, gap=True, ube=True, has=True)


class Stopping:
    """A `Track` that calls `stop` before it hands out item number `at`, counted from the start of the whole run."""

    def __init__(self, at: int, stop: Callable[[], object]) -> None:
        self.at = at
        self.stop = stop
        self.done = -1

    def __call__(
        self, items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
    ) -> Iterator[T]:
        training = description == "training"
        self.done = done
        for number, item in enumerate(items, start=done + 1):
            if training and number == self.at:
                self.stop()
            yield item


def _press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _crash() -> None:
    raise RuntimeError("power cut")


def _log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(Segmenter.from_pretrained(folder / "segmenter").state_dict())


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(tiny_config, FLEX, 0, scenes, [generated], whole, machine=CPU)
    assert sorted(path.name for path in whole.iterdir()) == [
        "learning_curve.png",
        "log.jsonl",
        "previews",
        "segmenter",
        "tracking",
    ]

    with pytest.raises(KeyboardInterrupt):  # in the middle of a block of three: saved there, lost nothing
        train(tiny_config, FLEX, 0, scenes, [generated], broken, machine=CPU, progress=Stopping(5, _press_ctrl_c))
    crash = Stopping(11, _crash)
    with pytest.raises(RuntimeError):  # the last checkpoint is that of iteration 6, the log has come to 9
        train(tiny_config, FLEX, 0, scenes, [generated], broken, machine=CPU, progress=crash)
    assert crash.done == 5
    resumed = Stopping(0, _crash)
    train(tiny_config, FLEX, 0, scenes, [generated], broken, machine=CPU, progress=resumed)
    assert resumed.done == 6
    assert _log(broken) == _log(whole)
    assert [line["iteration"] for line in _log(whole)] == [3, 6, 9, 12]
    assert [line["iteration"] for line in _log(whole) if "validation_miou" in line] == [6, 12]
    ended = _weights(broken)
    for name, weight in _weights(whole).items():
        assert torch.equal(weight, ended[name]), name


def test_loader_workers_do_not_change_the_losses(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path
) -> None:
    """Over block ends, which they load across, and where there are more of them than a block has iterations."""
    short = tiny_config.model_copy(update={"iterations": 7})
    for workers in (0, 5):
        machine = Machine(device="cpu", loader_workers=workers)
        train(short, FLEX, 1, scenes, [generated], tmp_path / str(workers), machine=machine)
    assert _log(tmp_path / "0") == _log(tmp_path / "5")


def test_the_loss_falls_on_two_images(tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path) -> None:
    config = tiny_config.model_copy(update={"iterations": 60, "block": 10, "validation_scenes": 0})
    method = Method(gap=True, ube=True, has=True)
    train(config, method, 0, scenes[:2], [], tmp_path / "run", machine=CPU)
    losses = [line["loss"] for line in _log(tmp_path / "run")]
    assert losses[-1] < 0.6 * losses[0]

    predict = predictor(tmp_path / "run" / "segmenter", config.scale, "cpu")
    assert scenes[0].image is not None
    labels = predict(read_image(scenes[0].image))
    assert labels.shape == (32, 64)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= set(range(19))


def test_divergence_stops_and_keeps_a_good_checkpoint(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    wild = {"learning_rate": 1e30, "warmup": 12, "warmup_ratio": 1e-36}
    changes = {"block": 1, "checkpoint_every": 1, "optimizer": tiny_config.optimizer.model_copy(update=wild)}
    with pytest.raises(UserError, match=r"diverged at iteration \d+: .*learning_rate") as error:
        train(tiny_config.model_copy(update=changes), Method(), 0, scenes, [], tmp_path, machine=CPU)
    assert "\n" not in str(error.value)
    kept = torch.load(checkpoints(tmp_path / "checkpoint")[0], weights_only=True)
    assert kept["iteration"] >= 1
    assert all(weight.isfinite().all() for weight in kept["model"].values())


def test_a_checkpoint_of_another_configuration_is_refused(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, Method(), 0, scenes, [], tmp_path, machine=CPU, progress=Stopping(2, _press_ctrl_c))
    other = tiny_config.model_copy(update={"batch_size": 3})
    with pytest.raises(UserError, match="another configuration"):
        train(other, Method(), 0, scenes, [], tmp_path, machine=CPU)


def test_held_out_scenes_are_fixed_and_their_paintings_left_out(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path
) -> None:
    training, held_out = hold_out(scenes, 2)
    assert len(held_out) == 2
    assert {scene.id for scene in training} | {scene.id for scene in held_out} == {scene.id for scene in scenes}
    assert hold_out(scenes, 2) == (training, held_out)
    assert len(hold_out(scenes[:3], 50)[0]) == 3  # never more than a fifth
    pool = GeneratedPool([generated], tiny_config, excluded=frozenset({"0", "3"}), copy=tmp_path / "copy.arrow")
    assert len(pool) == 4
    image, label = pool.read(0)
    assert (image.shape, label.shape) == ((40, 48, 3), (40, 48))
    assert image.dtype == label.dtype == np.uint8


def test_user_errors_come_before_training(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="generation"):
        train(tiny_config, FLEX, 0, scenes, [], tmp_path / "a", machine=CPU)
    with pytest.raises(UserError, match="no data"):
        train(tiny_config, FLEX, 0, scenes, [tmp_path], tmp_path / "b", machine=CPU)
    with pytest.raises(UserError, match="no scenes"):
        train(tiny_config, FLEX, 0, [], [generated], tmp_path / "c", machine=CPU)
    with pytest.raises(UserError, match="smaller than the crop of 128x64"):
        train(tiny_config.model_copy(update={"crop": (64, 128)}), Method(), 0, scenes, [], tmp_path / "d", machine=CPU)
    with pytest.raises(UserError, match="no trained segmenter"):
        predictor(tmp_path / "missing", 1.0, "cpu")
