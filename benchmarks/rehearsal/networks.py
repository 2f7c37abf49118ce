"""The published networks' shapes with random weights, in the layouts of their repositories on the Hugging Face Hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from transformers import SegformerConfig, SegformerForImageClassification

from benchmarks.sd15 import sd15_controlnet, sd15_text_encoder, sd15_unet, sd15_vae
from generation.weights.words import learn_vocabulary
from pipeline.config.training import NetworkConfig
from pipeline.config.weights import PLAIN_PROMPT, PROMPT
from pipeline.data.labels import CLASS_NAMES
from pipeline.files import UNFINISHED
from training.encoders import encoder_config

PRIOR, CONTROLNET, ENCODER = "stable-diffusion-v1-5", "ControlNet_UNet-S", "mit-b5"
"""Folders of the networks."""
VOCABULARY = 49_408
"""Tokens of CLIP's vocabulary."""
START, END = "<|startoftext|>", "<|endoftext|>"

Write = Callable[[Path], object]


def write_networks(folder: Path) -> None:
    """Writes what `generation.weights` and `training.network.pretrained` of the presets name, but for parts that are
    there: 6 GB, with twice the U-Net in memory."""
    prior = folder / PRIOR
    parts: dict[Path, Callable[[], Write]] = {
        prior / "unet": lambda: sd15_unet().save_pretrained,
        prior / "vae": lambda: sd15_vae().save_pretrained,
        prior / "text_encoder": lambda: sd15_text_encoder().save_pretrained,
        prior / "tokenizer": lambda: write_tokenizer,
        prior / "scheduler": lambda: pndm().save_pretrained,
        folder / CONTROLNET: lambda: sd15_controlnet(_unet(prior / "unet")).save_pretrained,
        folder / ENCODER: lambda: write_encoder,
    }
    for place, build in parts.items():
        if not place.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                unfinished = place.with_name(f"{place.name}{UNFINISHED}")
                build()(unfinished)
                unfinished.rename(place)


def write_encoder(folder: Path, config: NetworkConfig | None = None) -> None:
    """A Mix Transformer (MiT-B5 unless `config` says otherwise) as nvidia publishes it: with ImageNet's classifier, in
    a file of torch."""
    sizes = encoder_config(config or NetworkConfig(pretrained=None, encoder="mit-b5"))
    del sizes["model_type"]
    classes = {number: f"LABEL_{number}" for number in range(1000)}
    network = SegformerForImageClassification(SegformerConfig(**sizes, id2label=classes))
    network.config.architectures = [type(network).__name__]
    folder.mkdir(parents=True, exist_ok=True)
    network.config.save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")


def write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer in the files that Stable Diffusion's repositories have, of the words of prompts alone."""
    words = learn_vocabulary([PROMPT, PLAIN_PROMPT, *CLASS_NAMES, "snowy rainy sunny foggy night"])
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    # as in CLIP's, these two are the last of the vocabulary
    numbers = words.numbers | {START: VOCABULARY - 2, END: VOCABULARY - 1}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    files: dict[str, Any] = {
        "vocab.json": numbers,
        "special_tokens_map.json": special,
        "tokenizer_config.json": config,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    merges = "".join(f"{first} {second}\n" for first, second in words.merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")


def pndm() -> PNDMScheduler:
    """The scheduler that Stable Diffusion 1.5's repository names; flexseg samples by DDIM on its noise schedule."""
    return PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip


def _unet(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder, local_files_only=True)
