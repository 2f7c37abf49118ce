"""Stable Diffusion 1.5 with a 20-channel ControlNet, of random weights, and how well its loop uses a GPU."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.record import NOT_MEASURED, Row
from generation.denoise import denoise
from generation.models import GeneratorNetworks
from generation.networks import build_controlnet, build_tokenizer
from generation.schedulers import starting_noise
from generation.windows import grid
from pipeline.config.generation import GenerationConfig
from pipeline.data.labels import NUM_CLASSES

SIDE = 8192
"""Side of the square matrices that the card's own rate is measured with."""


def sd15_unet() -> UNet2DConditionModel:
    """Its U-Net as the published config has it, 860 million weights, random."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sd15_vae() -> AutoencoderKL:
    """Its autoencoder, random."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )


def sd15_text_encoder() -> CLIPTextModel:
    """Its text encoder, random."""
    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    return CLIPTextModel(config)


def sd15_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet of 20 channels for `unet`, random where a new one is zero, which would hide the condition."""
    controlnet = build_controlnet(unet, image_levels=4)
    for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.01)
    torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.01)
    return controlnet


def random_sd15(device: torch.device) -> GeneratorNetworks:
    """The networks of Stable Diffusion 1.5 (published configs) with weights from seed 0."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(["a city street scene"])
        unet = sd15_unet()
        networks = {
            "vae": sd15_vae(),
            "text_encoder": sd15_text_encoder(),
            "unet": unet,
            "controlnet": sd15_controlnet(unet),
        }
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    for network in networks.values():
        network.eval().requires_grad_(False)
    return GeneratorNetworks(**networks, tokenizer=tokenizer, scheduler=scheduler)


def matmul_rate(device: torch.device, repeats: int = 50) -> float:
    """FLOP/s of bfloat16 products of square matrices."""
    left, right = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        left @ right
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    torch.cuda.synchronize(device)
    return repeats * 2 * SIDE**3 / (time.perf_counter() - start)


def second_pass(networks: GeneratorNetworks, images: int) -> Callable[[GenerationConfig], Tensor]:
    """A second pass over all windows of random label maps, to be run with a config."""
    device, (height, width) = networks.device, networks.trained_cells
    canvas = (2 * height, 2 * width)
    windows = [window for k in range(images) for window in grid(canvas, (height, width), 8, k)]
    size = (canvas[0] * networks.cell, canvas[1] * networks.cell)
    labels = np.random.default_rng(0).integers(0, NUM_CLASSES, (images, *size), dtype=np.uint8)
    noise = starting_noise(range(images), (networks.unet.config.in_channels, *canvas)).to(device)
    text = torch.stack([networks.embed([""] * images), networks.embed(["a city street scene"] * images)])
    return partial(denoise, networks, noise, networks.condition(labels), text, windows=windows)


def rate_rows(device: torch.device, images: int = 2, steps: int = 4) -> list[Row]:
    """TFLOP/s of the card's matrix products and of the denoising loop at the size of Stable Diffusion 1.5, in bf16.

    What counts as an operation of the loop: matrix products, convolutions and attention, counted in one step.
    """
    columns = ("matrix TFLOP/s", "loop TFLOP/s", "share")
    if device.type != "cuda":
        return [{"networks": name} | dict.fromkeys(columns, NOT_MEASURED) for name in ("eager", "compiled")]
    networks = random_sd15(device)
    config = GenerationConfig(weights="random", steps=steps, precision="bf16")
    networks.prepare(config)
    run = second_pass(networks, images)
    with FlopCounterMode(display=False) as counter:
        run(config.model_copy(update={"steps": 1}))
    operations = steps * counter.get_total_flops()
    rows: list[Row] = []
    for name in ("eager", "compiled"):
        if name == "compiled":
            networks.prepare(config.model_copy(update={"compile": True}))
        run(config)  # warms up
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        run(config)
        torch.cuda.synchronize(device)
        loop, card = operations / (time.perf_counter() - start), matmul_rate(device)
        values = (card / 1e12, loop / 1e12, loop / card)
        rows.append({"networks": name} | dict(zip(columns, values, strict=True)))
    return rows
