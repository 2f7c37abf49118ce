"""The networks of a generator, loaded from the diffusers layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from generation.crops import condition
from generation.folders import weights_folders
from generation.loading import load, load_scheduler
from generation.lora import merge_lora
from generation.palettes import colors
from generation.prompts import load_tokenizer
from pipeline.config.generation import GenerationConfig
from pipeline.config.weights import GeneratorParts


class NotFiniteError(ArithmeticError):
    """An image came out as something else than numbers; `row` is its place in the batch."""

    def __init__(self, row: int) -> None:
        super().__init__(f"image {row} of the batch is not finite")
        self.row = row


@dataclass(frozen=True)
class GeneratorNetworks:
    """Prior U-Net, ControlNet, VAE, text encoder with its tokenizer, and the scheduler that steps them.

    Style swap (DGInStyle sec. 3.2): the ControlNet was trained on the source U-Net, `unet` is the prior.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    scheduler: Any
    colors: np.ndarray | None = None
    """Colors (256, 3) uint8 of the train ids for a ControlNet that takes pictures; None for one that takes classes."""

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.device

    @property
    def cell(self) -> int:
        """Image px per latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def trained_cells(self) -> tuple[int, int]:
        """Height and width in cells that the U-Net was trained at."""
        size = self.unet.config.sample_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def grain(self) -> int:
        """Cells that the sides of what the U-Net sees must be a multiple of."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def condition(self, labels: np.ndarray) -> Tensor:
        """What the ControlNet takes (B, 20 or 3, H, W) for label maps (B, H, W)."""
        channels = self.controlnet.config.conditioning_channels
        return torch.from_numpy(condition(labels, channels, self.colors)).to(self.device)

    @torch.inference_mode()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings (B, tokens, D) of the prompts."""
        return embed(self.tokenizer, self.text_encoder, prompts)

    @torch.inference_mode()
    def decode(self, latents: Tensor, first: int = 0) -> Tensor:
        """Images (B, H, W, 3) uint8 of latents (B, L, H / cell, W / cell).

        NotFiniteError where a pixel is not finite, as it is wherever the latents are not: as a number from 0 to 255 it
        would be black. `first` is the row of the first image in the caller's batch.
        """
        pixels = self.vae.decode(unscaled(self.vae, latents)).sample
        finite = pixels.isfinite().flatten(1).all(dim=1).tolist()
        if not all(finite):
            raise NotFiniteError(first + finite.index(False))
        return to_images(pixels)

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Tensor:
        """Latents (B, L, H / cell, W / cell) of images (B, H, W, 3) uint8: the mode of the VAE's distribution."""
        return scaled(self.vae, self.vae.encode(to_pixels(images).to(self.device)).latent_dist.mode())

    def prepare(self, config: GenerationConfig, *, compiled: bool = False) -> None:
        """Make the networks ready for painting, in place and once: LoRA, precision, layout in memory, compiler."""
        if config.lora is not None:
            merge_lora(self.unet, config.lora, config.lora_scale)
        if self.device.type == "cuda":  # its matrix units take channels last; on a CPU it only costs
            for network in (self.unet, self.controlnet, self.vae):
                network.to(memory_format=torch.channels_last)
        for network in (self.unet, self.controlnet):
            if config.precision == "bf16":
                network.bfloat16()
            if compiled:
                network.compile()


def embed(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, prompts: Sequence[str]) -> Tensor:
    """Text embeddings (B, tokens, D) of the prompts; gradients reach the encoder where they are on."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=min(tokenizer.model_max_length, encoder.config.max_position_embeddings),
        return_tensors="pt",
    )
    return encoder(tokens.input_ids.to(encoder.device))[0]


def scaled(vae: AutoencoderKL, encoded: Tensor) -> Tensor:
    """What a VAE has encoded (B, L, H, W) -> latents as the U-Net takes them. SD 1.5's VAE has no shift."""
    return (encoded - _shift(vae)) * vae.config.scaling_factor


def unscaled(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents (B, L, H, W) -> what the VAE decodes: undoes `scaled`."""
    return latents / vae.config.scaling_factor + _shift(vae)


def _shift(vae: AutoencoderKL) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


def to_pixels(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8 on the CPU."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def load_networks(weights: GeneratorParts | str, device: torch.device) -> GeneratorNetworks:
    """Load the generator that `generation.weights` names, in float32 and evaluation mode.

    One that is put together from parts gets DDIM on its prior's noise schedule, as DGInStyle's released code has.
    """
    folders = weights_folders(weights)
    return GeneratorNetworks(
        vae=load(AutoencoderKL, folders["vae"]).to(device),
        text_encoder=load(CLIPTextModel, folders["text_encoder"]).to(device),
        tokenizer=load_tokenizer(folders["tokenizer"]),
        unet=load(UNet2DConditionModel, folders["unet"]).to(device),
        controlnet=load(ControlNetModel, folders["controlnet"]).to(device),
        scheduler=load_scheduler(folders["scheduler"], ddim=isinstance(weights, GeneratorParts)),
        colors=colors(weights.palette) if isinstance(weights, GeneratorParts) else None,
    )
