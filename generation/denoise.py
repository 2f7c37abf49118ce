"""From noise to latents: the guided denoising loop in which the ControlNet drives the prior."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from generation.models import Generator
from pipeline.config.generation import GenerationConfig


def starting_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Unit normal latents (B, *shape), each from a CPU generator of its own: the same in every batch, on any device."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


@torch.inference_mode()
def denoise(generator: Generator, noise: Tensor, condition: Tensor, text: Tensor, config: GenerationConfig) -> Tensor:
    """Latents (B, L, h, w) painted from unit `noise` of that shape.

    `condition` is the one-hot label map (B, 20, H, W); `text` (2, B, tokens, D) holds the embeddings of the empty
    prompts and of the prompts. Classifier-free guidance runs on both halves in one batch. For the first
    `config.control_start` of the steps the prior is alone, which lets it set the style (ours; 0 is DGInStyle).
    """
    scheduler = copy.deepcopy(generator.scheduler)
    scheduler.set_timesteps(config.steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    both_text, both_condition = text.flatten(0, 1), torch.cat([condition, condition])
    alone = round(config.control_start * config.steps)
    for step, t in enumerate(scheduler.timesteps):
        inputs = scheduler.scale_model_input(torch.cat([latents, latents]), t)
        scale = 0.0 if step < alone else config.control_scale
        residuals = control(generator, inputs, t, both_text, both_condition, scale)
        prediction = generator.unet(inputs, t, encoder_hidden_states=both_text, **residuals).sample
        empty, prompted = prediction.chunk(2)
        guided = empty + config.guidance * (prompted - empty)
        latents = scheduler.step(guided, t, latents).prev_sample
    return latents


def control(
    generator: Generator, inputs: Tensor, t: Tensor, text: Tensor, condition: Tensor, scale: float
) -> dict[str, Tensor | list[Tensor]]:
    """The ControlNet's residuals for the U-Net, none where `scale` is 0."""
    if scale == 0.0:
        return {}
    down, mid = generator.controlnet(
        inputs, t, encoder_hidden_states=text, controlnet_cond=condition, conditioning_scale=scale, return_dict=False
    )
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
