"""A generator with random weights and every part of the real one: small enough to make and run in a test."""

from pathlib import Path

import torch
from diffusers import StableDiffusionControlNetPipeline

from generation.networks import (
    build_controlnet,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
)
from pipeline.config.generation import GenerationConfig
from pipeline.config.weights import PriorTraining, VaeTraining
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


def tiny_generation(weights: Path, **changes: object) -> GenerationConfig:
    """Five images of 64x32 px in three shards, from the generator in `weights`; `changes` are keys of the section."""
    settings = {
        "weights": str(weights), "counts": {"sunny": 3, "night": 2}, "size": (32, 64), "steps": 2, "shard_size": 2,
        "rare_class_pixels": 100, **changes,
    }  # fmt: skip
    return GenerationConfig.model_validate(settings)
