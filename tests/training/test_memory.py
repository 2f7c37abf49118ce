"""A GPU's memory that is full while a segmenter is trained: the step is done again in smaller parts, which is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.statistics import class_pixels
from pipeline.errors import TryAgainError
from tests.memory import FULL, SmallCard
from training import parts
from training.networks import Segmenter
from training.parts import in_parts
from training.train import train

CPU = Machine(device="cpu", tracker=None)
METHOD = Method(gap=True, ube=True, shade=True)


def trained(
    config: TrainingConfig, scenes: list[Scene], folder: Path, **changes: Any
) -> tuple[dict[str, Any], list[Any]]:
    """The weights and the log of a short training."""
    config = config.of(Method(training={"batch_size": 4, "iterations": 4, "block": 2, **changes}))
    train(config, METHOD, 0, scenes, [], folder, machine=CPU, pixels=class_pixels(scenes))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return Segmenter.from_pretrained(folder / "segmenter", strict=True).state_dict(), log


def test_a_full_gpu_trains_in_smaller_parts_as_accumulation_does(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The memory is full at the second part: what the first one did to norms, prototypes, styles and random numbers is
    taken back."""
    calm, wanted = trained(tiny_config, scenes, tmp_path / "calm", accumulation=4)
    original, card, calls = Segmenter.forward, SmallCard(2), 0  # an image is two with SHADE

    def forward(self: Segmenter, image: torch.Tensor, *rest: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(self, image if calls == 1 else card.hold(image), *rest)

    monkeypatch.setattr(Segmenter, "forward", forward)
    weights, log = trained(tiny_config, scenes, tmp_path / "full", accumulation=2)
    assert card.refused == 1
    assert all(torch.equal(weights[name], value) for name, value in calm.items())
    assert log == [{**line, "images_at_once": 1} for line in wanted]
    said = [line for line in capsys.readouterr().err.splitlines() if "memory is full" in line]
    assert len(said) == 1 and "1 images at once from now on instead of 2 (as a larger training.accumulation" in said[0]


def test_one_image_that_does_not_fit_ends_in_one_line(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SmallCard(0)
    monkeypatch.setattr(Segmenter, "forward", lambda self, image, *rest: card.hold(image))
    with pytest.raises(TryAgainError, match=r"^one image alone does not fit .* GPU 0 .*: take training.precision bf16"):
        trained(tiny_config, scenes, tmp_path)


def test_of_several_processes_none_goes_on_alone(monkeypatch: pytest.MonkeyPatch, tiny_config: TrainingConfig) -> None:
    """The others wait for it inside the network: beginning the step anew would hang them all."""

    def step(size: int) -> None:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(parts, "world_size", lambda: 2)
    at_once = parts.images_at_once(tiny_config.model_copy(update={"batch_size": 8}))
    assert at_once.most == 4
    with pytest.raises(TryAgainError, match=r"full with 4 images at once .*: raise training.accumulation or machine"):
        in_parts(step, at_once, [])
