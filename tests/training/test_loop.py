"""Options of the loop: accumulation, clipping, half precision, trackers, compiling, what is drawn."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]  # it has no types

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.labels import CLASSES
from pipeline.data.statistics import class_pixels
from pipeline.errors import UserError
from training.loop import Loop
from training.train import Job, prepare, train
from training.validation import draw_learning_curve, preview_row

CPU = Machine(device="cpu", tracker=None)
Make = Callable[..., Loop]


@pytest.fixture
def make_loop(tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path) -> Make:
    def make(machine: Machine = CPU, **changes: Any) -> Loop:
        AcceleratorState._reset_state(reset_partial_state=True)  # precision may differ from an earlier test's
        config = tiny_config.of(Method(training={"network": {"dropout": 0.0, "drop_path": 0.0}}))
        config = config.of(Method(training=changes))
        job = Job(config, Method(), 0, scenes, [], tmp_path, machine, class_pixels(scenes))
        return prepare(job)[0]

    return make


def _steps(loop: Loop, count: int, *, training: bool = True) -> torch.Tensor:
    """(count, T + B) what the first iterations measure."""
    loop.model.train(training)
    for batch, _ in zip(loop.batches(), range(count), strict=False):
        loop.step(batch)
    return torch.stack(loop.rows)


def test_two_parts_are_one_batch_but_for_batch_norm(make_loop: Make) -> None:
    whole, parts = make_loop(batch_size=4), make_loop(batch_size=4, accumulation=2)
    torch.testing.assert_close(
        _steps(parts, 3, training=False), _steps(whole, 3, training=False), rtol=1e-5, atol=1e-6
    )  # eval mode: norms use their running statistics


def test_gradients_are_clipped_to_the_norm(make_loop: Make) -> None:
    loop = make_loop(optimizer={"clip_norm": 0.01})
    _steps(loop, 1)
    gradients = [weight.grad for weight in loop.model.parameters() if weight.grad is not None]
    assert torch.cat([gradient.flatten() for gradient in gradients]).norm() == pytest.approx(0.01, rel=1e-3)


def test_half_precision_is_close_and_its_losses_are_fp32(make_loop: Make) -> None:
    exact, half = _steps(make_loop(), 2), _steps(make_loop(precision="bf16"), 2)
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half)
    torch.testing.assert_close(half[:, 1], exact[:, 1], rtol=0.1, atol=0)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_tf32_is_asked_of_a_gpu_and_changes_nothing_on_a_cpu(make_loop: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, bool]] = []

    def note(device: torch.device, precision: str, *, autotune: bool) -> None:
        asked.append((device.type, precision, autotune))

    monkeypatch.setattr("training.train.set_up_gpu", note)
    exact = _steps(make_loop(), 2)
    assert torch.equal(exact, _steps(make_loop(CPU.model_copy(update={"autotune": False}), precision="tf32"), 2))
    assert asked == [("cpu", "fp32", True), ("cpu", "tf32", False)]


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiling took 300 s on a busy machine
def test_a_compiled_network_gives_the_same_losses(make_loop: Make) -> None:
    plain, compiled = make_loop(), make_loop(CPU.model_copy(update={"compile": True}))
    torch.testing.assert_close(_steps(compiled, 3), _steps(plain, 3), rtol=1e-3, atol=1e-4)


def test_losses_go_to_tensorboard_too(tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path) -> None:
    config = tiny_config.of(Method(training={"iterations": 6}))
    train(config, Method(), 0, scenes, [], tmp_path, machine=Machine(device="cpu"))
    events = event_accumulator.EventAccumulator(str(tmp_path / "tracking"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for name in ("loss", "learning_rate"):
        written = [(event.step, event.value) for event in events.Scalars(name)]
        assert written == [(line["iteration"], pytest.approx(line[name])) for line in lines]


def test_a_tracker_that_is_not_installed_is_refused(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("training.tracking.find_spec", lambda name: None if name == "wandb" else found(name))
    with pytest.raises(UserError, match="'wandb'.*not installed"):
        train(tiny_config, Method(), 0, scenes, [], tmp_path, machine=CPU.model_copy(update={"tracker": "wandb"}))


def test_class_statistics_are_taken_as_given(make_loop: Make, scenes: list[Scene], tmp_path: Path) -> None:
    loop = make_loop()
    assert loop.drawer.rare is not None
    empty = np.zeros((len(scenes), 19), np.int64)
    job = Job(loop.config, Method(), 0, scenes, [], tmp_path, CPU, empty + 1)
    with pytest.raises(UserError, match="rare_class_pixels"):
        prepare(job)
    everything = replace(job, pixels=empty + 10_000)
    rare = prepare(everything)[0].drawer.rare
    assert rare is not None
    assert all(len(images) == len(loop.samples.pools[0]) for images in rare.images)


def test_a_preview_shows_image_label_and_prediction() -> None:
    image = np.full((4, 8, 3), 200, np.uint8)
    label, prediction = np.full((4, 8), 13, np.uint8), np.full((4, 8), 10, np.uint8)
    label[0] = 255
    row = preview_row(image, label, prediction)
    side = 384
    for place, color in ((0, (200, 200, 200)), (1, CLASSES[13].color), (2, CLASSES[10].color)):
        assert tuple(row[-1, place * (side + 4) + 10]) == color
    assert not row[0, side + 10].any() and not row[0, 2 * (side + 4) + 10].any()


def test_the_learning_curve_is_a_picture(tmp_path: Path) -> None:
    lines = [{"iteration": k, "loss": 3 / k} for k in range(1, 9)] + [
        {"iteration": 9, "loss": 1, "validation_miou": 0.4}
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_learning_curve(tmp_path / "log.jsonl", tmp_path / "curve.png")
    pixels = np.asarray(Image.open(tmp_path / "curve.png").convert("RGB")).astype(int)
    blue, orange = pixels[..., 2] - pixels[..., 0], pixels[..., 0] - pixels[..., 2]
    assert (blue > 100).sum() > 50 and (orange > 100).sum() > 20
