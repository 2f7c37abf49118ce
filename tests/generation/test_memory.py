"""A GPU's memory that is full while images are painted: what is in flight is halved, and the images are the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from generation import denoise, fusion, paint
from generation.crops import LabelReader
from generation.models import GeneratorNetworks, load_networks
from generation.paint import Painter
from generation.weights.loop import MicroBatch, train_network
from pipeline.config.generation import GenerationConfig
from pipeline.config.machine import Machine
from pipeline.config.weights import NetworkTraining
from pipeline.data.datasets import Scene
from pipeline.errors import TryAgainError
from pipeline.requests import Box, GenerationRequest
from tests.memory import SmallCard

MACHINE = Machine(generation_batch=4, window_batch=8)
PLACES: dict[str, Callable[[GeneratorNetworks], tuple[Any, str]]] = {
    "unet": lambda generator: (generator.unet, "forward"),
    "controlnet": lambda generator: (generator.controlnet, "forward"),
    "condition": lambda generator: (generator.controlnet.controlnet_cond_embedding, "forward"),
    "decoder": lambda generator: (generator.vae, "decode"),
    "encoder": lambda generator: (generator.vae, "encode"),
}


@pytest.fixture
def generator(tiny_weights: Path) -> GeneratorNetworks:
    return load_networks(str(tiny_weights), torch.device("cpu"))


def config(weights: Path, **changes: object) -> GenerationConfig:
    plain = {"weights": str(weights), "size": (32, 64), "steps": 2, "guidance": 3.0}
    second = {"upscale": 2, "stride": 8, "large_component": None}
    return GenerationConfig.model_validate({**plain, "fusion": second, **changes})


def painted(painter: Painter, scenes: list[Scene]) -> np.ndarray:
    """Four images of four requests."""
    requests = [
        GenerationRequest(f"r{k}", scenes[k].id, Box(0, 0, 32, 64), 0, "sunny", "sunny road", k) for k in range(4)
    ]
    return np.stack([image for _, image, _ in painter.paint(requests, LabelReader(scenes, None))])


def assert_same(images: np.ndarray, calm: np.ndarray) -> None:
    """The same but for the last bits of sums, which differ with how many windows are in a call: here and there a value
    lies one step of 255 beside."""
    difference = np.abs(images.astype(int) - calm.astype(int))
    assert difference.max() <= 1 and np.count_nonzero(difference) < 1e-3 * difference.size


@pytest.mark.parametrize(
    ("place", "fits"), [("unet", 4), ("controlnet", 2), ("condition", 1), ("decoder", 1), ("encoder", 1)]
)
def test_less_in_flight_paints_the_same(
    generator: GeneratorNetworks, tiny_weights: Path, scenes: list[Scene], place: str, fits: int
) -> None:
    calm = painted(Painter(config(tiny_weights), generator, MACHINE), scenes)
    card, (part, name) = SmallCard(fits), PLACES[place](generator)
    setattr(part, name, card.limit(getattr(part, name)))
    assert_same(painted(Painter(config(tiny_weights), generator, MACHINE), scenes), calm)
    # the encoder takes one image at a time as it is
    assert max(card.held) == fits and (card.refused > 0) == (place != "encoder")


def test_what_fits_with_fewer_images_alone_is_painted_with_fewer(
    generator: GeneratorNetworks, tiny_weights: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be cut in itself, as the enlarged images of the second pass, is less where fewer images are there."""
    calm = painted(Painter(config(tiny_weights), generator, MACHINE), scenes)
    card = SmallCard(1)
    fuse = card.limit(lambda images, *rest, **options: fusion.fuse(generator, images, *rest, **options))
    monkeypatch.setattr(paint, "fuse", lambda _, images, *rest, **options: fuse(images, *rest, **options))
    assert_same(painted(Painter(config(tiny_weights), generator, MACHINE), scenes), calm)
    assert card.held == [1] * 4 and card.refused == 2


def test_one_image_that_does_not_fit_ends_in_one_line(
    generator: GeneratorNetworks, tiny_weights: Path, scenes: list[Scene]
) -> None:
    generator.unet.forward = SmallCard(1).limit(generator.unet.forward)  # each image needs two, for guidance
    with pytest.raises(TryAgainError, match=r"^one image alone does not fit .* GPU 0 has a .*: lower generation\.size"):
        painted(Painter(config(tiny_weights), generator, MACHINE), scenes)


def test_conditions_that_are_too_large_to_be_kept_are_embedded_at_every_step(
    generator: GeneratorNetworks, tiny_weights: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = painted(Painter(config(tiny_weights), generator, MACHINE), scenes)
    card = SmallCard(8)
    embedding = generator.controlnet.controlnet_cond_embedding
    embedding.forward = card.limit(embedding.forward)
    monkeypatch.setattr(denoise, "KEPT_HINTS", 0)
    assert_same(painted(Painter(config(tiny_weights), generator, MACHINE), scenes), calm)
    windows, steps = 4 + 4 * 6, 2  # a first pass of each image, and 2 x 3 windows over its canvas
    assert sum(card.held) == windows * steps + 4 + 8  # the first ones of each pass, whose size is looked at


def test_texts_are_kept_within_a_bound(
    generator: GeneratorNetworks, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["road", "sky", "road", "bus", "car", "road", "sky"]
    asked: list[str] = []
    embed = GeneratorNetworks.embed

    def noting(self: GeneratorNetworks, texts: list[str]) -> torch.Tensor:
        asked.extend(texts)
        return embed(self, texts)

    one = generator.embed(["road"])
    monkeypatch.setattr(GeneratorNetworks, "embed", noting)
    monkeypatch.setattr(paint, "KEPT_TEXTS", 3 * one.nbytes)
    painter = Painter(config(tiny_weights, fusion=None), generator, Machine(generation_batch=8))
    painter.images(np.zeros((7, 32, 64), np.uint8), prompts, list(range(7)))
    # `bus` takes the place of the empty prompt, `car` that of `sky`: `road` was used again before
    assert asked == ["", "road", "sky", "bus", "car", "sky"]


def fitted(folder: Path, accumulation: int, hold: Callable[[Any], Any] = lambda values: values) -> torch.Tensor:
    """The weight of a line after three steps of six rows each, all of them drawn from step and row."""
    rows = torch.linspace(-1, 1, 18).view(3, 6, 1)
    network = nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    fit = NetworkTraining(steps=3, batch_size=6, accumulation=accumulation, learning_rate=0.1, warmup=0)

    def loss(network: nn.Module, batch: MicroBatch) -> torch.Tensor:
        values = hold(rows[batch.step, batch.rows])
        return (network(values) - 3 * values).square().mean()

    train_network(network, iter, loss, fit, folder)
    return network.weight.detach()


def test_weights_are_trained_in_smaller_parts_with_the_same_gradients(tmp_path: Path) -> None:
    """From the second step on only two rows fit: six become three, and three two, which divide six."""
    whole, ones = fitted(tmp_path / "whole", 1), fitted(tmp_path / "ones", 6)
    card, calls = SmallCard(2), 0

    def hold(values: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return values if calls == 1 else card.hold(values)

    halved = fitted(tmp_path / "halved", 1, hold)
    assert card.refused == 2 and card.held == [2] * 6
    torch.testing.assert_close(halved, whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(halved, ones, rtol=1e-6, atol=0)
    lines = [path.read_text().splitlines() for path in sorted(tmp_path.glob("*/log.jsonl"))]
    assert [json.loads(line[-1])["loss"] for line in lines] == pytest.approx([json.loads(lines[0][-1])["loss"]] * 3)
