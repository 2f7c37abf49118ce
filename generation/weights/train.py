"""A generator's trainings in order: the prior, from nothing or published, then source U-Net and ControlNet."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from generation.folders import Folders, write_layout
from generation.loading import load, load_scheduler
from generation.prompts import load_tokenizer
from generation.weights.diffusion import Text
from generation.weights.finetune import CONTROLNET, FineTuner, Prior
from generation.weights.output import claim, forget_paths, remove_unneeded
from generation.weights.scenes import SceneWorld, check_scenes
from generation.weights.scratch import ToyPrior
from pipeline.config.machine import Machine
from pipeline.config.weights import WeightsConfig
from pipeline.data.datasets import Scene
from pipeline.errors import UserError
from pipeline.work.devices import device_of, loader_workers, set_up_gpu
from pipeline.work.progress import Track, silent

INDEX = "model_index.json"
GUIDANCE = 7.5  # of previews with a published prior


def train_from_scratch(config: WeightsConfig, folder: Path, *, machine: Machine, progress: Track = silent) -> None:
    """Train the whole generator on toy town into `folder`: a StableDiffusionControlNetPipeline in diffusers' layout.

    Every finished part is kept and every training continues from its last checkpoint, so an interrupted call is
    simply repeated. Logs and previews lie in `folder/training/<part>`.
    """
    accelerator = _accelerator(config, machine)
    if accelerator().num_processes > 1:
        raise UserError("training from scratch runs in one process: start it without torchrun or accelerate launch")
    claim(folder, config)
    if (folder / INDEX).exists():  # written last
        remove_unneeded(folder)
        return
    toy = ToyPrior(config, folder, accelerator=accelerator, progress=progress)
    prior, world = toy.run()
    FineTuner(config, prior, world, folder, accelerator=accelerator, progress=progress).run()
    assemble(prior, folder)
    remove_unneeded(folder)


def assemble(prior: Prior, folder: Path) -> None:
    """Add to the networks in `folder` what makes it a pipeline's: scheduler, ControlNet and, last, the model index."""
    pipeline = StableDiffusionControlNetPipeline(
        vae=prior.vae,
        text_encoder=prior.text.encoder,
        tokenizer=prior.text.tokenizer,
        unet=load(UNet2DConditionModel, prior.unet),
        controlnet=load(ControlNetModel, folder / CONTROLNET),
        scheduler=prior.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    partial = folder / "pipeline.partial"
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.save_pretrained(partial)
    forget_paths(partial)
    write_layout(partial / "controlnet")
    for name in ("scheduler", "controlnet"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (partial / name).rename(folder / name)
    (partial / INDEX).rename(folder / INDEX)
    shutil.rmtree(partial)


def fine_tune(
    config: WeightsConfig,
    folders: Folders,
    scenes: Sequence[Scene],
    pixels: np.ndarray,
    folder: Path,
    *,
    machine: Machine,
    progress: Track = silent,
) -> None:
    """Fine-tune the prior in `folders` on `scenes`: `U-Net-Source-Finetuned` and `ControlNet_UNet-S` in `folder`.

    `pixels` (N, 19) counts each scene's px per class. Resumes like `train_from_scratch`; started by torchrun or
    accelerate launch, the processes share every batch. UserError: scenes smaller than the crop.
    """
    accelerator = _accelerator(config, machine)
    run = accelerator()  # before any other use of Accelerate: it decides on device and processes
    if run.num_processes != (wanted := int(os.environ.get("WORLD_SIZE", "1"))):
        raise UserError(
            f"{wanted} processes were started, but Accelerate sees {run.num_processes}: start them with torchrun"
            " --nproc-per-node, on a CPU with ACCELERATE_USE_CPU=true"
        )
    claim(folder, config)
    if (folder / CONTROLNET).exists():  # written last
        remove_unneeded(folder)
        return
    vae = load(AutoencoderKL, folders["vae"]).to(run.device)
    unet = UNet2DConditionModel.load_config(folders["unet"], local_files_only=True)
    levels = len(vae.config.block_out_channels) + len(unet["block_out_channels"])
    check_scenes(config, scenes, pixels, multiple=2 ** (levels - 2))
    encoder = load(CLIPTextModel, folders["text_encoder"]).to(run.device)
    text = Text(load_tokenizer(folders["tokenizer"]), encoder)
    prior = Prior(folders["unet"], vae, text, load_scheduler(folders["scheduler"], ddim=True), GUIDANCE)
    world = SceneWorld(config, scenes, pixels, vae, loader_workers=loader_workers(machine))
    FineTuner(config, prior, world, folder, accelerator=accelerator, progress=progress).run()
    remove_unneeded(folder)


def _accelerator(config: WeightsConfig, machine: Machine) -> Callable[[], Accelerator]:
    half = config.precision != "fp32"
    set_up_gpu(device_of(machine), "bf16" if half else "fp32", autotune=machine.autotune)  # crops are of one size
    precision = config.precision if half else "no"
    return partial(Accelerator, cpu=device_of(machine).type == "cpu", mixed_precision=precision)
