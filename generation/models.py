"""The networks of a generator, loaded from the diffusers layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from generation.folders import COMPONENTS, weights_folder
from pipeline.errors import UserError


@dataclass(frozen=True)
class Generator:
    """Prior U-Net, ControlNet, VAE, text encoder with its tokenizer, and the scheduler that steps them.

    Style swap (DGInStyle sec. 3.2): the ControlNet was trained on the source U-Net, `unet` is the prior.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    scheduler: Any

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.device

    @property
    def cell(self) -> int:
        """Image px per latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.inference_mode()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings (B, tokens, D) of the prompts."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(self.device))[0]

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, H, W, 3) uint8 of latents (B, L, H / cell, W / cell)."""
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def load_generator(weights: str, device: torch.device) -> Generator:
    """Load the generator that `generation.weights` names, in float32 and evaluation mode."""
    folder = weights_folder(weights)
    diffusers_logging.disable_progress_bar()  # they take a second and would tear our own bar
    transformers_logging.disable_progress_bar()
    try:
        pipeline = StableDiffusionControlNetPipeline.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, safety_checker=None, requires_safety_checker=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{folder} does not load as a diffusers ControlNet pipeline ({reason}): fetch or train it again"
        ) from error
    networks = {name: getattr(pipeline, name) for name in COMPONENTS}
    for name in ("vae", "text_encoder", "unet", "controlnet"):
        networks[name].to(device).eval().requires_grad_(False)
    return Generator(**networks)
