"""Latents, losses and previews of the diffusion trainings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from generation.models import embed, scaled, to_images, to_pixels, unscaled
from pipeline.seeding import derive_seed


@dataclass(frozen=True)
class Text:
    """Tokenizer and text encoder."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """(B, tokens, D) embeddings."""
        return embed(self.tokenizer, self.encoder, prompts)


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """Latents (N, h, w, L) float32, channels last so that they are cut like images."""
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    latents = [vae.encode(to_pixels(batch).to(vae.device)).latent_dist.mode().cpu() for batch in batches]
    return scaled(vae, torch.cat(latents)).permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def normalize_latents(vae: AutoencoderKL, latents: np.ndarray) -> None:
    """Give every latent channel mean 0 and variance 1 by folding an affine map into the VAE's two 1x1 convolutions.

    `latents` (N, h, w, L) are the VAE's own. Reconstructions stay what they were.
    """
    mean = torch.from_numpy(latents.mean((0, 1, 2)))
    std = torch.from_numpy(latents.std((0, 1, 2)))
    into, back = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()  # the second half holds log variances
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= std[None, :, None, None]


def draw_noise(scheduler: DDIMScheduler, seed: int, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Uniformly drawn timesteps (B,) and unit normal noise of `shape` (B, L, h, w), on the CPU."""
    rng = torch.Generator().manual_seed(seed)
    timesteps = torch.randint(int(scheduler.config.num_train_timesteps), (shape[0],), generator=rng)
    return timesteps, torch.randn(tuple(shape), generator=rng)


def diffusion_loss(
    unet: nn.Module,
    scheduler: DDIMScheduler,
    latents: Tensor,
    text: Tensor,
    drawn: tuple[Tensor, Tensor],
    control: tuple[nn.Module, Tensor] | None = None,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared error of what the U-Net predicts (noise or velocity, as its scheduler says) at the drawn timesteps.

    `drawn` = timesteps and noise for `latents` (B, L, h, w); `control` = ControlNet and its condition (B, C, H, W);
    `weights` (B, 1, h, w) of the cells.
    """
    timesteps, noise = (tensor.to(latents.device) for tensor in drawn)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    residuals: dict[str, Any] = {}
    if control is not None:
        controlnet, condition = control
        down, mid = controlnet(noisy, timesteps, text, controlnet_cond=condition, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    predicted = unet(noisy, timesteps, text, **residuals).sample
    is_velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if is_velocity else noise
    if weights is None:
        return F.mse_loss(predicted, target)
    return (weights * (predicted - target).square()).mean()


def area_weights(labels: np.ndarray, cells: tuple[int, int], power: float) -> Tensor:
    """Weights (B, 1, h, w) with mean 1 per crop: 1 / (share of its crop that a px's class covers) to `power`, averaged
    over each cell's px (ours). `labels` (B, H, W) uint8; `cells` = (h, w), which divide H and W."""
    shares = np.stack([np.bincount(label.ravel(), minlength=256)[label] / label.size for label in labels])
    factor = labels.shape[1] // cells[0], labels.shape[2] // cells[1]
    weights = F.avg_pool2d(torch.from_numpy(shares**-power).float()[:, None], factor)
    return weights / weights.mean((2, 3), keepdim=True)


@torch.inference_mode()
def sample(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    text: Text,
    prompts: Sequence[str],
    shape: Sequence[int],
    control: tuple[ControlNetModel, Tensor] | None = None,
    *,
    steps: int = 20,
    guidance: float = 2.5,
) -> Tensor:
    """Latents (B, *shape) for the prompts, by DDIM with classifier-free guidance; for previews, always one seed."""
    count = len(prompts)
    embeddings = text.embed([""] * count + list(prompts))
    rng = torch.Generator().manual_seed(derive_seed("preview"))
    latents = torch.randn((count, *shape), generator=rng).to(unet.device)
    scheduler.set_timesteps(steps, device=unet.device)
    for timestep in scheduler.timesteps:
        doubled = torch.cat([latents, latents])
        residuals: dict[str, Any] = {}
        if control is not None:
            controlnet, condition = control
            condition = torch.cat([condition, condition])
            down, mid = controlnet(doubled, timestep, embeddings, controlnet_cond=condition, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        empty, full = unet(doubled, timestep, embeddings, **residuals).sample.chunk(2)
        latents = scheduler.step(empty + guidance * (full - empty), timestep, latents).prev_sample
    return latents


@torch.inference_mode()
def decode(vae: AutoencoderKL, latents: Tensor) -> np.ndarray:
    """(B, H, W, 3) uint8."""
    return to_images(vae.decode(unscaled(vae, latents)).sample).numpy()


def save_sheet(path: Path, rows: Sequence[np.ndarray]) -> None:
    """One PNG, doubled in size where images are small; each row is (B, H, W, 3) uint8."""
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    factor = 2 if rows[0].shape[1] < 256 else 1
    size = factor * sheet.shape[1], factor * sheet.shape[0]
    Image.fromarray(sheet).resize(size, Image.Resampling.NEAREST).save(path)
