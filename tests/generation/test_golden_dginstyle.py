"""The denoising loop against the released DGInStyle pipeline's numbers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.released import released_pass
from generation.components import large_components, to_cells
from generation.denoise import denoise
from generation.models import GeneratorNetworks
from generation.schedulers import Kept
from generation.windows import Window, grid, needed
from pipeline.config.generation import GenerationConfig


@dataclass(frozen=True)
class Golden:
    """The folder's networks, numbers and facts."""

    networks: GeneratorNetworks
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    label: np.ndarray

    @property
    def config(self) -> GenerationConfig:
        return GenerationConfig(
            weights="golden", steps=self.facts["num_inference_steps"], guidance=self.facts["guidance_scale"]
        )

    @property
    def text(self) -> Tensor:
        return torch.stack([self.tensors["negative_prompt_embeds"], self.tensors["prompt_embeds"]])

    def second_pass(self, windows: Sequence[Window], kept: Kept | None = None, **changes: Any) -> Tensor:
        large = self.label.repeat(self.facts["rescale"], 0).repeat(self.facts["rescale"], 1)
        condition = self.networks.condition(large[None])
        noise = self.tensors["latents_128"]
        return denoise(self.networks, noise, condition, self.text, self.config, windows=windows, kept=kept, **changes)

    @property
    def windows(self) -> list[Window]:
        side = self.facts["window"]
        return grid((128, 128), (side, side), self.facts["stride"])

    @property
    def kept(self) -> Kept:
        cells = to_cells(large_components(self.label, self.facts["large_component_pixels"]), (128, 128))
        first, noise = self.tensors["initial_latents"], self.tensors["keep_noise"]
        return Kept(first, torch.from_numpy(cells)[None, None], iter(noise), "released")


@pytest.fixture(scope="module")
def released(golden: Path) -> Golden:
    folder = golden / "dginstyle"
    unused: Any = None  # the prompts come embedded
    networks = GeneratorNetworks(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=unused,
        tokenizer=unused,
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        controlnet=ControlNetModel.from_pretrained(folder / "controlnet"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
    )
    facts = json.loads((folder / "reference.json").read_text())
    label = np.asarray(Image.open(folder / "crop_labelTrainIds.png"))
    return Golden(networks, load_file(folder / "reference.safetensors"), facts, label)


def assert_equal(latents: Tensor, expected: Tensor) -> None:
    assert (latents - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_golden_single_view(released: Golden) -> None:
    condition = released.networks.condition(released.label[None])
    noise = released.tensors["latents_64"]
    latents = denoise(released.networks, noise, condition, released.text, released.config)
    assert_equal(latents, released.tensors["out_single_view"])


def test_golden_large_components(released: Golden) -> None:
    components = large_components(released.label, released.facts["large_component_pixels"])
    np.testing.assert_array_equal(components, released.tensors["large_component_mask"].numpy().astype(bool))


@pytest.mark.slow
@pytest.mark.timeout(900)  # 4096 x 4096 attention, nine windows, one thread
def test_golden_fused(released: Golden) -> None:
    assert_equal(released.second_pass(released.windows), released.tensors["out_fused"])


@pytest.mark.slow
@pytest.mark.timeout(900)  # 4096 x 4096 attention, nine windows, one thread
def test_golden_fused_one_window_at_a_time(released: Golden) -> None:
    assert_equal(released.second_pass(released.windows, window_batch=1), released.tensors["out_fused"])


@pytest.mark.slow
@pytest.mark.timeout(900)  # 4096 x 4096 attention, nine windows, one thread
def test_golden_fused_with_kept_components(released: Golden) -> None:
    kept = released.kept
    latents = released.second_pass(needed(released.windows, ~kept.cells[0, 0].numpy()), kept)
    assert_equal(latents, released.tensors["out_fused_kept"])


@pytest.mark.slow
@pytest.mark.timeout(900)  # 4096 x 4096 attention, nine windows, one thread
def test_golden_the_loop_that_benchmarks_call_released(released: Golden) -> None:
    large = released.label.repeat(2, 0).repeat(2, 1)
    latents = released_pass(
        released.networks,
        released.tensors["latents_128"],
        released.networks.condition(large[None]),
        released.text[:, 0],
        released.config,
        corners=[(window.top, window.left) for window in released.windows],
        window=(64, 64),
        kept=(released.kept.cells, released.kept.latents, released.tensors["keep_noise"]),
    )
    assert_equal(latents, released.tensors["out_fused_kept"])
