"""The denoising loop against the released DGInStyle pipeline's numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from generation.crops import one_hot
from generation.denoise import denoise
from generation.models import Generator
from pipeline.config.generation import GenerationConfig


def test_golden_single_view(golden: Path) -> None:
    folder = golden / "dginstyle"
    facts = json.loads((folder / "reference.json").read_text())
    reference = load_file(folder / "reference.safetensors")
    unused: Any = None  # the prompts come embedded
    generator = Generator(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=unused,
        tokenizer=unused,
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        controlnet=ControlNetModel.from_pretrained(folder / "controlnet"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
    )
    label = np.asarray(Image.open(folder / "crop_labelTrainIds.png"))
    text = torch.stack([reference["negative_prompt_embeds"], reference["prompt_embeds"]])
    config = GenerationConfig(weights="golden", steps=facts["num_inference_steps"], guidance=facts["guidance_scale"])
    latents = denoise(generator, reference["latents_64"], torch.from_numpy(one_hot(label[None])), text, config)
    expected = reference["out_single_view"]
    assert (latents - expected).abs().max() <= 1e-4 * expected.abs().max()
