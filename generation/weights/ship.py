"""From a finished training to what ships: half-precision weights and a model card written from the training's logs."""

import json
import os
import platform
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionControlNetPipeline

from generation.folders import COMPONENTS, write_layout
from generation.weights.output import forget_paths
from pipeline.config.weights import WeightsConfig
from pipeline.errors import UserError

PARTS = {
    "vae": "autoencoder (factor 4, 8 latent channels)",
    "prior": "prior U-Net and text encoder, all five weathers",
    "source": "source U-Net, starts the ControlNet, does not ship",
    "controlnet": "ControlNet, 19 classes + ignore, on the source U-Net",
}


def ship_weights(config: WeightsConfig, folder: Path, destination: Path) -> None:
    """Write the generator trained in `folder` (train_weights with `config`) as fp16 safetensors into `destination`.

    The source U-Net stays behind. Raises UserError where the training has not finished.
    """
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} holds no finished training: repeat 'flexseg weights train' until it has finished")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(folder, dtype=torch.float16, local_files_only=True)
    pipeline.save_pretrained(destination)
    forget_paths(destination)
    for name in COMPONENTS:
        write_layout(destination / name)
    previews = sorted((folder / "training" / "controlnet").glob("step-*.png"))
    shutil.copyfile(previews[-1], destination / "samples.png")
    (destination / "README.md").write_text(model_card(config, folder), encoding="utf-8")


def model_card(config: WeightsConfig, folder: Path) -> str:
    """The card's text; every number is read from the config and the logs."""
    scratch, source = config.scratch, config.source
    assert scratch is not None and not isinstance(source, str)
    fits = {"vae": scratch.vae, "prior": scratch.prior, "source": source, "controlnet": config.controlnet}
    logs = {part: folder / "training" / part / "log.jsonl" for part in PARTS}
    ends = {part: last_line(log) for part, log in logs.items() if log.exists()}
    rows = "\n".join(
        f"| {part} | {PARTS[part]} | {end['step']} | {fits[part].batch_size} | {end['seconds'] / 60:.1f} |"
        f" {end['loss']:.4f} |"
        for part, end in ends.items()
    )
    minutes = sum(end["seconds"] for end in ends.values()) / 60
    height, width = config.crop
    start, preset = "from nothing", "toy-weights"
    if config.init_from is not None:
        start, preset = f"onwards from the set '{config.init_from}', whose VAE is kept,", "toy-weights-more"
    return f"""---
license: apache-2.0
library_name: diffusers
---
# Toy town generator

A tiny Stable-Diffusion-layout generator ({width}x{height} px) for flexseg's embedded world. It exists so that the main
job runs without a download, and knows nothing of real streets. diffusers' `StableDiffusionControlNetPipeline` opens it.

Trained {start} on flexseg's own renders ({scratch.prior_images} of the prior's world, {scratch.source_images} of
the source, seed {config.seed}), never on a target scene, with `flexseg weights train {preset}`.

| part | what | steps | batch | minutes | last loss |
|---|---|---|---|---|---|
{rows}

{minutes:.0f} minutes of training in all, on {os.cpu_count()} cores ({platform.machine()}, torch {torch.__version__}).
Prompts: "A city street scene with <classes>, in <snowy | rainy | sunny | foggy | night> weather."
Condition: one-hot label map, 20 channels, ignore last. Velocity prediction with zero terminal signal-to-noise ratio.

![masks, then one row per weather: snowy, rainy, sunny, foggy, night](samples.png)

Not picked by hand: the last preview of the training, one fixed seed, masks of the source bank, the prior U-Net driven
by the ControlNet.
"""


def last_line(path: Path) -> dict[str, float]:
    """The last entry of a training's log."""
    entry: dict[str, float] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    return entry
