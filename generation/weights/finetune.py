"""The two fine-tunings of DGInStyle: the prior's U-Net on the source, then a ControlNet on that source U-Net.

One code for toy town and for Stable Diffusion on GTA: they differ in what `Prior` holds and where `Examples` come from.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from generation.crops import one_hot
from generation.folders import network_folder
from generation.loading import load
from generation.networks import build_controlnet
from generation.prompts import fill_prompt
from generation.weights.bank import captions
from generation.weights.diffusion import Text, area_weights, decode, diffusion_loss, draw_noise, sample, save_sheet
from generation.weights.loop import MicroBatch, train_network
from generation.weights.output import TRAINING, initialization, publish, published
from pipeline.config.weights import FineTuning, WeightsConfig
from pipeline.data.pictures import colorize
from pipeline.seeding import derive_seed
from pipeline.toytown import WEATHERS
from pipeline.work.progress import Track, silent

SOURCE_UNET, CONTROLNET = "U-Net-Source-Finetuned", "ControlNet_UNet-S"
"""Folders of the results, named as DGInStyle's published ones."""
PREVIEWS = 3  # label maps in a preview


@dataclass(frozen=True)
class Prior:
    """What fine-tuning starts from and leaves as it is. `unet` is a folder: the network itself is needed now and then.

    `guidance` is that of previews. `controlnet` is the folder of the one to go on with; None begins with a copy of the
    source U-Net's encoder.
    """

    unet: Path
    vae: AutoencoderKL
    text: Text
    scheduler: DDIMScheduler
    guidance: float
    controlnet: Path | None = None


class Examples(NamedTuple):
    """Crops of source images: latents (B, L, h, w) on the device, label maps (B, H, W) uint8."""

    batch: MicroBatch
    latents: Tensor
    labels: np.ndarray


class World(Protocol):
    """Where examples come from."""

    def examples(self, name: str, tuning: FineTuning, batches: Sequence[MicroBatch]) -> Iterable[Examples]:
        """One `Examples` per micro-batch of the training `name`, in order."""
        ...


class FineTuner:
    """Writes `U-Net-Source-Finetuned` and `ControlNet_UNet-S` into `folder`; what is there already is kept."""

    def __init__(
        self,
        config: WeightsConfig,
        prior: Prior,
        world: World,
        folder: Path,
        *,
        accelerator: Callable[[], Accelerator],
        progress: Track = silent,
    ) -> None:
        self.config, self.prior, self.world, self.folder = config, prior, world, folder
        self.accelerator, self.progress = accelerator, progress
        self.device = prior.vae.device

    def run(self) -> None:
        """Both trainings."""
        if not published(self.folder / CONTROLNET):
            publish(self.train_controlnet(self.source_unet()), self.folder / CONTROLNET)

    def source_unet(self) -> UNet2DConditionModel:
        """The source U-Net, frozen: the one that the config names, or trained now if that has not been done yet."""
        tuning = self.config.source
        if isinstance(tuning, str):
            folder = network_folder(tuning, "unet", "weights.source")
        else:
            folder = self.folder / SOURCE_UNET
            if not published(folder):
                publish(self.train_source(tuning), folder)
        return load(UNet2DConditionModel, folder).to(self.device)

    def train_source(self, tuning: FineTuning) -> UNet2DConditionModel:
        """The prior's U-Net fine-tuned on the source with an empty prompt (DreamBooth, no prior preservation)."""
        unet = load(UNet2DConditionModel, self.prior.unet).requires_grad_(True)
        empty = self.prior.text.embed([""])

        def loss(network: nn.Module, examples: Examples) -> Tensor:
            return self.loss("source", tuning, network, examples, empty.repeat(len(examples.latents), 1, 1))

        self.train("source", tuning, unet, loss)
        return unet

    def train_controlnet(self, source_unet: UNet2DConditionModel) -> ControlNetModel:
        """The ControlNet on the frozen source U-Net; previews drive the prior's U-Net instead (style swap)."""
        tuning = self.config.controlnet
        if self.prior.controlnet is not None:
            controlnet = load(ControlNetModel, self.prior.controlnet).requires_grad_(True)
        else:
            with initialization(self.config.seed, "controlnet"):
                controlnet = build_controlnet(source_unet, len(self.prior.vae.config.block_out_channels))
        if tuning.gradient_checkpointing:  # gradients reach the ControlNet through the source U-Net
            source_unet.enable_gradient_checkpointing()

        def loss(network: nn.Module, examples: Examples) -> Tensor:
            config = self.config
            prompts = [fill_prompt(config.prompt, label, config.class_separator) for label in examples.labels]
            condition = torch.from_numpy(one_hot(examples.labels)).to(self.device)
            text = self.prior.text.embed(prompts)
            return self.loss("controlnet", tuning, source_unet, examples, text, (network, condition))

        self.train("controlnet", tuning, controlnet, loss, lambda path: self.preview(controlnet, path))
        return controlnet

    def train(
        self,
        name: str,
        tuning: FineTuning,
        network: Any,
        loss: Callable[[nn.Module, Examples], Tensor],
        preview: Callable[[Path], None] | None = None,
    ) -> None:
        """Train `network` on the world's examples for `name`."""
        if tuning.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        train_network(
            network,
            lambda batches: self.world.examples(name, tuning, batches),
            loss,
            tuning,
            self.folder / TRAINING / name,
            accelerator=self.accelerator,
            preview=preview,
            progress=self.progress,
        )

    def loss(
        self,
        name: str,
        tuning: FineTuning,
        unet: nn.Module,
        examples: Examples,
        text: Tensor,
        control: tuple[nn.Module, Tensor] | None = None,
    ) -> Tensor:
        """The diffusion loss of one micro-batch. Noise is drawn for the whole batch, however it is divided."""
        seed = derive_seed("weights", self.config.seed, name, "noise", examples.batch.step)
        shape = (tuning.batch_size, *examples.latents.shape[1:])
        timesteps, noise = draw_noise(self.prior.scheduler, seed, shape)
        drawn = timesteps[examples.batch.rows], noise[examples.batch.rows]
        weights = None
        if tuning.area_balance:
            height, width = examples.latents.shape[2:]
            weights = area_weights(examples.labels, (height, width), tuning.area_balance).to(self.device)
        return diffusion_loss(unet, self.prior.scheduler, examples.latents, text, drawn, control, weights=weights)

    def preview(self, controlnet: ControlNetModel, path: Path) -> None:
        """One PNG: label maps, then the prior's images on them, one row per weather."""
        prior = load(UNet2DConditionModel, self.prior.unet).to(self.device)
        tuning = self.config.controlnet
        first = MicroBatch(-1, slice(0, min(PREVIEWS, tuning.batch_size)))
        (examples,) = self.world.examples("controlnet", tuning, [first])
        columns = []
        for label in examples.labels:
            prompts = captions(np.stack([label] * len(WEATHERS)), WEATHERS)
            condition = torch.from_numpy(one_hot(label[None])).repeat(len(WEATHERS), 1, 1, 1).to(self.device)
            latents = sample(
                prior,
                self.prior.scheduler,
                self.prior.text,
                prompts,
                examples.latents.shape[1:],
                (controlnet, condition),
                guidance=self.prior.guidance,
            )
            columns.append(decode(self.prior.vae, latents))
        save_sheet(path, [colorize(examples.labels), *np.stack(columns, axis=1)])
