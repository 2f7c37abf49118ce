"""A generator with random weights and every part of the real one: small enough to make and run in a test."""

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image

from generation.networks import (
    build_controlnet,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
)
from pipeline.config.data import Dataset
from pipeline.config.generation import GenerationConfig
from pipeline.config.weights import PriorTraining, VaeTraining, WeightsConfig
from pipeline.data.datasets import Scene, find_scenes
from pipeline.data.labels import CLASS_NAMES

PROMPT_WORDS = "A city street scene with, in weather. snowy rainy sunny foggy night"


def write_tiny_generator(folder: Path) -> Path:
    """Write it into `folder` in the diffusers layout."""
    vae_config = VaeTraining(steps=1, learning_rate=1e-3, channels=(8, 8, 8), latent_channels=4)
    prior_config = PriorTraining(steps=1, learning_rate=1e-3, channels=(8, 16), text_layers=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer([PROMPT_WORDS, *CLASS_NAMES])
        unet = build_unet(prior_config, vae_config.latent_channels, (8, 16))
        controlnet = build_controlnet(unet, len(vae_config.channels))
        embedding = controlnet.controlnet_cond_embedding.conv_out
        # they start at zero, which would hide the condition
        for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block, embedding):
            torch.nn.init.normal_(layer.weight, std=0.1)
        StableDiffusionControlNetPipeline(
            vae=build_vae(vae_config),
            text_encoder=build_text_encoder(prior_config, tokenizer),
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def tiny_weights_training(**training: object) -> WeightsConfig:
    """All trainings of a generator from nothing, `training` each, of the smallest networks on six small pictures."""
    fit = {"batch_size": 2, "learning_rate": 1e-3, "warmup": 1, "ema": 0.5, **training}
    return WeightsConfig.model_validate(
        {
            "crop": (16, 32),
            "scratch": {
                "size": (32, 64),
                "prior_images": 3,
                "source_images": 3,
                "vae": {**fit, "channels": (8, 8, 8), "crop": 16, "latent_channels": 4},
                "prior": {**fit, "channels": (8, 8, 16), "text_width": 16, "text_layers": 1},
            },
            "source": fit,
            "controlnet": fit,
        }
    )


def write_maps(folder: Path) -> list[Scene]:
    """Six road-and-sky maps; only the last one holds a train (16), 20x20 px in its lower right corner."""
    folder.mkdir()
    for k in range(6):
        label = np.full((64, 128), 10, np.uint8)
        label[32:] = 0
        if k == 5:
            label[44:, 108:] = 16
        Image.fromarray(label).save(folder / f"{k}.png")
    return find_scenes(Dataset(name="maps", root=folder, layout="globs", labels="*.png", ids="train"))


def tiny_generation(weights: Path, **changes: object) -> GenerationConfig:
    """Five images of 64x32 px in three shards, from the generator in `weights`; `changes` are keys of the section."""
    settings = {
        "weights": str(weights), "counts": {"sunny": 3, "night": 2}, "size": (32, 64), "steps": 2, "shard_size": 2,
        "rare_class_pixels": 100, **changes,
    }  # fmt: skip
    return GenerationConfig.model_validate(settings)
