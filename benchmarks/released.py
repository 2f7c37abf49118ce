"""Painting as the released DGInStyle generator does it, in plain loops: what `benchmarks.generation` measures against.

One window at a time, in float32, each condition and prompt embedded whenever it is used, all windows looked through.
Only the noise is drawn our way, and what lies around the loops (sizes, components) is shared, so that images can be
compared.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from generation.fusion import kept_cells, kept_noise, resize
from generation.models import GeneratorNetworks
from generation.schedulers import starting_noise
from generation.windows import grid
from pipeline.config.generation import FusionConfig, GenerationConfig
from pipeline.requests import GenerationRequest
from pipeline.seeding import derive_seed

Corner = tuple[int, int]


@torch.inference_mode()
def released_pass(
    networks: GeneratorNetworks,
    latents: Tensor,
    condition: Tensor,
    text: Tensor,
    config: GenerationConfig,
    *,
    corners: Sequence[Corner],
    window: tuple[int, int],
    kept: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Latents (1, L, h, w) from noise of that shape, through windows of `window` cells at `corners`.

    `condition` (1, 20, H, W); `text` (2, tokens, D), of the empty prompt and the prompt; `kept` = cells (h, w) bool,
    first-pass latents, and the noise of every step. Windows take a step each, then their results are averaged.
    """
    scheduler = copy.deepcopy(networks.scheduler)
    scheduler.set_timesteps(config.steps, device=latents.device)
    latents, cell = latents * scheduler.init_noise_sigma, condition.shape[-1] // latents.shape[-1]
    height, width = window
    for step, t in enumerate(scheduler.timesteps):
        total, count = torch.zeros_like(latents), torch.zeros_like(latents)
        for top, left in corners:
            view = latents[:, :, top : top + height, left : left + width]
            hint = condition[:, :, top * cell : (top + height) * cell, left * cell : (left + width) * cell]
            both = scheduler.scale_model_input(torch.cat([view, view]), t)
            down, mid = networks.controlnet(
                both,
                t,
                encoder_hidden_states=text,
                controlnet_cond=torch.cat([hint, hint]),
                conditioning_scale=config.control_scale,
                return_dict=False,
            )
            prediction = networks.unet(
                both,
                t,
                encoder_hidden_states=text,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample
            empty, prompted = prediction.chunk(2)
            guided = empty + config.guidance * (prompted - empty)
            total[:, :, top : top + height, left : left + width] += scheduler.step(guided, t, view).prev_sample
            count[:, :, top : top + height, left : left + width] += 1
        latents = total / count
        if kept is not None:
            cells, first, noise = kept
            latents = torch.where(cells, scheduler.add_noise(first, noise[step], (t - 1)[None]), latents)
    return latents


def paint_released(
    networks: GeneratorNetworks, label: np.ndarray, request: GenerationRequest, config: GenerationConfig
) -> np.ndarray:
    """Image (H, W, 3) uint8 of a label map (H, W) uint8: first pass, enlarged, second pass, shrunk."""
    fusion, device = config.fusion or FusionConfig(), networks.device
    channels = networks.unet.config.in_channels
    text = networks.embed(["", request.prompt])
    cells = (label.shape[0] // networks.cell, label.shape[1] // networks.cell)
    noise = starting_noise([request.seed], (channels, *cells)).to(device)
    first = released_pass(
        networks, noise, networks.condition(label[None]), text, config, corners=[(0, 0)], window=cells
    )
    size = (label.shape[0] * fusion.upscale, label.shape[1] * fusion.upscale)
    canvas = (cells[0] * fusion.upscale, cells[1] * fusion.upscale)
    window = fusion.window or networks.trained_cells
    windows = grid(canvas, window, fusion.stride)
    large = networks.encode(resize(networks.decode(first)[0].numpy(), size)[None])
    draws = kept_noise([request.seed], (channels, *canvas), device)
    mask = torch.from_numpy(kept_cells(label, canvas, fusion)).to(device)
    second = released_pass(
        networks,
        starting_noise([derive_seed(request.seed, "second pass")], (channels, *canvas)).to(device),
        networks.condition(label.repeat(fusion.upscale, 0).repeat(fusion.upscale, 1)[None]),
        text,
        config,
        corners=[(w.top, w.left) for w in windows],
        window=(windows[0].height, windows[0].width),
        kept=(mask, large, torch.stack([next(draws) for _ in range(config.steps)])),
    )
    return resize(networks.decode(second)[0].numpy(), (label.shape[0], label.shape[1]))
