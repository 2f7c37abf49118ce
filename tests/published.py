"""Tiny networks in the layouts of Stable Diffusion 1.5 and of DGInStyle's published ones; tiny data in GTA's layout."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from generation.networks import build_controlnet, build_tokenizer
from pipeline.config.data import Dataset
from pipeline.data.datasets import Scene, find_scenes
from pipeline.data.labels import CLASS_NAMES

WIDTH = 16


def tiny_unet(width: int = WIDTH) -> UNet2DConditionModel:
    """A U-Net with SD 1.5's block types; `width` is that of the text."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=width,
    )


def write_prior(folder: Path) -> Path:
    """VAE (factor 8), text encoder, tokenizer, U-Net (epsilon) and PNDM scheduler, as SD 1.5's repository has them."""
    tokenizer = build_tokenizer(["A city street scene with, in weather.", *CLASS_NAMES])
    tokenizer.save_pretrained(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
        ).save_pretrained(folder / "vae")
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            projection_dim=WIDTH,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        CLIPTextModel(text).save_pretrained(folder / "text_encoder")
        tiny_unet().save_pretrained(folder / "unet")
    PNDMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


def write_dginstyle(folder: Path) -> Path:
    """`ControlNet_UNet-S` and `U-Net-Source-Finetuned` for that prior."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = tiny_unet()
        build_controlnet(unet, image_levels=4).save_pretrained(folder / "ControlNet_UNet-S")
    unet.save_pretrained(folder / "U-Net-Source-Finetuned")
    return folder


def write_gta(root: Path) -> list[Scene]:
    """Four photographs of 40 x 64 px; a rider (12) of 4 x 4 px in the last one only."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for k in range(4):
        label = np.zeros((40, 64), np.uint8)
        label[:20] = 10
        if k == 3:
            label[30:34, 10:14] = 12
        picture = rng.integers(0, 60, (40, 64, 3)) + np.where(label[..., None] == 10, 180, 40)
        Image.fromarray(picture.astype(np.uint8)).save(root / f"images/{k:05d}.png")
        Image.fromarray(label).save(root / f"labels/{k:05d}_labelTrainIds.png")
    return find_scenes(Dataset(name="gta", root=root, layout="gta"))
