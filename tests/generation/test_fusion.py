"""Latent fusion and the savings: the same image with less work, and options that say what they change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.released import paint_released
from generation.denoise import denoise
from generation.fusion import second_pass_windows
from generation.models import GeneratorNetworks, load_networks
from generation.paint import Painter
from generation.schedulers import Kept, draw, generators, make_scheduler, noised, starting_noise
from generation.windows import Window, grid, needed
from pipeline.config.generation import FusionConfig, GenerationConfig
from pipeline.requests import Box, GenerationRequest

CANVAS = (16, 32)
WINDOW = (8, 16)


def config(weights: Path, fusion: dict[str, Any] | None = None, **changes: object) -> GenerationConfig:
    fused = {"stride": 4, "large_component": 300, **(fusion or {})}
    plain = {"weights": str(weights), "size": (32, 64), "steps": 3, "guidance": 3.0}
    return GenerationConfig.model_validate({**plain, "fusion": fused, **changes})


def street(seed: int = 0, height: int = 32, width: int = 64) -> np.ndarray:
    """A label map of road and sky, with small things and an ignored patch between."""
    label = np.full((height, width), 10, np.uint8)
    label[height // 2 :] = 0
    rng = np.random.default_rng(seed)
    for class_id in (13, 11, 5, 255):
        top, left = int(rng.integers(0, height - 6)), int(rng.integers(0, width - 8))
        label[top : top + 6, left : left + 8] = class_id
    return label


def load(weights: Path) -> GeneratorNetworks:
    return load_networks(str(weights), torch.device("cpu"))


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> GeneratorNetworks:
    return load(tiny_weights)


def inputs(networks: GeneratorNetworks, labels: np.ndarray) -> tuple[GeneratorNetworks, Tensor, Tensor, Tensor]:
    """What `denoise` takes before the config, for a canvas of `labels` (B, H, W)."""
    batch, height, width = labels.shape
    text = torch.stack([networks.embed([""] * batch), networks.embed(["sunny road"] * batch)])
    noise = starting_noise(range(batch), (4, height // 4, width // 4))
    return networks, noise, networks.condition(labels), text


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(1, 31), st.integers(0, 99))
def test_windows_in_any_batch_give_the_same_latents(
    tiny: GeneratorNetworks, tiny_weights: Path, size: int, window_batch: int, seed: int
) -> None:
    every = [window for image in range(2) for window in grid(CANVAS, WINDOW, 4, image)]
    windows = [every[k] for k in np.random.default_rng(seed).choice(len(every), size, replace=False)]
    arguments = inputs(tiny, np.stack([street(0, 64, 128), street(1, 64, 128)]))
    one, many = (
        denoise(*arguments, config(tiny_weights, steps=2), windows=windows, window_batch=n) for n in (1, window_batch)
    )
    torch.testing.assert_close(many, one, rtol=0, atol=1e-5 * float(one.abs().max()))


def test_a_condition_is_embedded_once_and_kept_windows_are_not_looked_through(
    tiny: GeneratorNetworks, tiny_weights: Path
) -> None:
    settings = config(tiny_weights)
    free = np.zeros((2, *CANVAS), bool)
    free[0, 0, 0] = free[1, -1] = True
    windows = second_pass_windows(free, tiny.trained_cells, FusionConfig(stride=4))
    assert windows == [Window(0, 0, 0, 8, 16), *[Window(1, 8, left, 8, 16) for left in (0, 4, 8, 12, 16)]]
    counts = {"embedding": 0, "controlnet": 0, "unet": 0}

    def count(name: str) -> Any:
        def add(module: object, given: tuple[Tensor, ...]) -> None:
            counts[name] += len(given[0])

        return add

    layers = (tiny.controlnet.controlnet_cond_embedding, tiny.controlnet.conv_in, tiny.unet.conv_in)
    hooks = [layer.register_forward_pre_hook(count(name)) for layer, name in zip(layers, counts, strict=True)]
    denoise(*inputs(tiny, np.stack([street(0, 64, 128)] * 2)), settings, windows=windows)
    for hook in hooks:
        hook.remove()
    assert counts == {"embedding": 6, "controlnet": 2 * 3 * 6, "unet": 2 * 3 * 6}  # halves x steps x windows
    assert isinstance(tiny.controlnet.controlnet_cond_embedding, torch.nn.Module)
    assert sum(1 for _ in tiny.controlnet.controlnet_cond_embedding.parameters()) > 0  # its own again


def test_kept_cells_hold_the_first_pass_and_skipped_windows_change_no_other(
    tiny: GeneratorNetworks, tiny_weights: Path
) -> None:
    arguments = inputs(tiny, street(0, 64, 128)[None])
    first = draw(generators([7]), (4, *CANVAS))
    cells = np.ones(CANVAS, bool)
    cells[10:, 3:9] = False
    every = grid(CANVAS, WINDOW, 4)
    assert 0 < len(needed(every, ~cells)) < len(every)

    def painted(windows: list[Window]) -> Tensor:
        noise = iter([draw(generators([k]), (4, *CANVAS)) for k in range(3)])
        kept = Kept(first, torch.from_numpy(cells)[None, None], noise)
        return denoise(*arguments, config(tiny_weights), windows=windows, kept=kept)

    all_windows, few = painted(every), painted(needed(every, ~cells))
    mask = torch.from_numpy(cells)
    assert torch.equal(all_windows[..., mask], first[..., mask])
    assert not torch.allclose(all_windows[..., ~mask], first[..., ~mask])
    torch.testing.assert_close(few, all_windows, rtol=0, atol=1e-5 * float(all_windows.abs().max()))


@pytest.mark.parametrize("name", ["weights", "ddim", "unipc", "dpm-solver", "lcm"])
def test_kept_cells_are_as_noisy_as_the_next_step_begins(
    tiny: GeneratorNetworks, tiny_weights: Path, name: str
) -> None:
    scheduler = make_scheduler(tiny.scheduler, config(tiny_weights, scheduler=name, steps=4), torch.device("cpu"))
    first, noise = torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 2.0)
    kept = Kept(first, torch.ones(1, 1, 2, 2, dtype=torch.bool), iter([noise] * 4))
    signals = [*scheduler.alphas_cumprod[scheduler.timesteps[1:].long()], torch.tensor(1.0)]
    for step, signal in enumerate(signals):
        expected = signal.sqrt() * first + (1 - signal).sqrt() * noise
        torch.testing.assert_close(noised(scheduler, kept, step), expected.expand_as(first), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 64), (48, 32)])
def test_a_fused_image_equals_the_released_way(
    tiny: GeneratorNetworks, tiny_weights: Path, size: tuple[int, int]
) -> None:
    settings = config(tiny_weights, {"kept_noise": "released"}, size=size, steps=2)
    labels = np.stack([street(seed, *size) for seed in (3, 4)])
    requests = [
        GenerationRequest("0", "map", Box(0, 0, *size), 0, "sunny", "sunny road", 8),
        GenerationRequest("1", "map", Box(0, 0, *size), 0, "night", "night, sky", 9),
    ]
    prompts, seeds = [request.prompt for request in requests], [request.seed for request in requests]
    painter = Painter(settings, tiny)
    both = painter.images(labels, prompts, seeds)
    assert both.shape == (2, *size, 3)
    for k, (image, request) in enumerate(zip(both, requests, strict=True)):
        alone = painter.images(labels[k : k + 1], prompts[k : k + 1], seeds[k : k + 1])[0]
        released = paint_released(tiny, labels[k], request, settings)
        for other in (alone, released):
            difference = np.abs(image.astype(int) - other)
            assert difference.max() <= 1  # of 255: a sum in another order may round the other way
            assert difference.mean() < 0.05
    one_pass = Painter(settings.model_copy(update={"fusion": None}), tiny).images(labels, prompts, seeds)
    assert np.abs(both.astype(int) - one_pass).mean() > 0.5
