"""From nothing to a prior on toy town: renders, the VAE, then the U-Net with its text encoder."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from generation.folders import weights_folders
from generation.loading import load
from generation.models import to_images, to_pixels
from generation.networks import build_scheduler, build_text_encoder, build_tokenizer, build_unet, build_vae
from generation.prompts import load_tokenizer
from generation.weights.bank import Bank, CropSampler, captions, cut, load_bank
from generation.weights.checkpoints import keep, kept
from generation.weights.diffusion import (
    Text,
    decode,
    diffusion_loss,
    draw_noise,
    encode,
    normalize_latents,
    sample,
    save_sheet,
)
from generation.weights.finetune import Examples, Prior
from generation.weights.loop import MicroBatch, train_network
from generation.weights.output import BANK, TRAINING, initialization, publish, published
from pipeline.config.weights import PLAIN_PROMPT, PROMPT, FineTuning, WeightsConfig
from pipeline.data.labels import CLASS_NAMES
from pipeline.seeding import derive_seed, random_generator
from pipeline.toytown import WEATHERS
from pipeline.work.progress import Track, silent

GUIDANCE = 2.5  # of previews


class ToyPrior:
    """The trainings from nothing. Parts are built in the order of `run`; what is in `folder` already is kept."""

    def __init__(
        self,
        config: WeightsConfig,
        folder: Path,
        *,
        accelerator: Callable[[], Accelerator],
        progress: Track = silent,
    ) -> None:
        assert config.scratch is not None
        self.config, self.scratch, self.folder = config, config.scratch, folder
        self.accelerator, self.progress = accelerator, progress
        self.device = accelerator().device
        self.cell = 2 ** (len(config.scratch.vae.channels) - 1)
        self.cells = config.crop[0] // self.cell, config.crop[1] // self.cell
        self.scheduler = build_scheduler()
        self.begun = weights_folders(config.init_from) if config.init_from else None

    def run(self) -> tuple[Prior, "BankWorld"]:
        """The finished prior, and the source's renders to fine-tune it on."""
        prior = self.bank("prior", self.scratch.prior_images)
        source = self.bank("source", self.scratch.source_images)
        if not published(self.folder / "vae"):
            kept_vae = load(AutoencoderKL, self.begun["vae"]) if self.begun else None
            publish(kept_vae or self.train_vae(prior, source), self.folder / "vae")
        vae = load(AutoencoderKL, self.folder / "vae").to(self.device)
        prior_latents, source_latents = self.latents("prior", vae, prior), self.latents("source", vae, source)
        if not published(self.folder / "unet"):
            unet, text = self.train_prior(vae, prior, prior_latents)
            publish(text.encoder, self.folder / "text_encoder")
            publish(unet, self.folder / "unet")
        encoder = load(CLIPTextModel, self.folder / "text_encoder").to(self.device)
        text = Text(load_tokenizer(self.folder / "tokenizer"), encoder)
        world = BankWorld(self.config, source, source_latents, self.cell, self.device)
        controlnet = self.begun["controlnet"] if self.begun else None
        return Prior(self.folder / "unet", vae, text, self.scheduler, GUIDANCE, controlnet), world

    def bank(self, world: str, count: int) -> Bank:
        """Renders of `world`, rendered once per folder."""
        path = self.folder / BANK / f"{world}.json"
        return load_bank(path, world, self.config.seed, count, self.scratch.size, progress=self.progress)

    def latents(self, world: str, vae: AutoencoderKL, bank: Bank) -> np.ndarray:
        """The bank's latents (N, h, w, L), encoded once per folder."""
        path = self.folder / BANK / f"{world}-latents.json"
        stored = kept(path, f"encoding the {world} bank")
        if stored is None:
            latents = encode(vae, bank.images)
            keep(path, {"latents": torch.from_numpy(latents)}, {})
            return latents
        return stored.tensors["latents"].numpy()

    def train(
        self, name: str, network: Any, loss: Callable[[MicroBatch], Tensor], preview: Callable[[Path], None]
    ) -> None:
        """Train `network`; the config's section of that name says how."""
        train_network(
            network,
            lambda batches: batches,
            lambda _, batch: loss(batch),  # one process: nothing is wrapped
            getattr(self.scratch, name),
            self.folder / TRAINING / name,
            accelerator=self.accelerator,
            preview=preview,
            progress=self.progress,
        )

    def train_vae(self, *banks: Bank) -> AutoencoderKL:
        """The autoencoder, on square crops of both banks; its latents end with mean 0 and variance 1 per channel."""
        config = self.scratch.vae
        with initialization(self.config.seed, "vae"):
            vae = build_vae(config)
        images = np.concatenate([bank.images for bank in banks])

        def crops(rng: np.random.Generator) -> Tensor:
            room = np.array(images.shape[1:3]) - config.crop
            corners = rng.integers(0, room + 1, (config.batch_size, 2))
            places = np.column_stack([rng.integers(len(images), size=config.batch_size), corners])
            return to_pixels(cut(images, places, (config.crop, config.crop), 1)).to(vae.device)

        def loss(batch: MicroBatch) -> Tensor:
            pixels = crops(random_generator("weights", self.config.seed, "vae", batch.step))[batch.rows]
            posterior = vae.encode(pixels).latent_dist
            rng = torch.Generator().manual_seed(derive_seed("weights", self.config.seed, "vae noise", batch.step))
            noise = torch.randn((config.batch_size, *posterior.mean.shape[1:]), generator=rng)[batch.rows]
            decoded = vae.decode(posterior.mean + posterior.std * noise.to(vae.device)).sample
            divergence = posterior.kl().mean() / posterior.mean[0].numel()  # per latent value
            return reconstruction_loss(decoded, pixels, config.gradient) + config.kl * divergence

        examples = images[:: max(len(images) // 5, 1)][:5]

        @torch.inference_mode()
        def preview(path: Path) -> None:
            pixels = to_pixels(examples).to(vae.device)
            save_sheet(path, [examples, to_images(vae.decode(vae.encode(pixels).latent_dist.mode()).sample).numpy()])

        self.train("vae", vae, loss, preview)
        normalize_latents(vae, encode(vae, images[:: max(len(images) // 400, 1)]))
        return vae

    def train_prior(self, vae: AutoencoderKL, bank: Bank, latents: np.ndarray) -> tuple[UNet2DConditionModel, Text]:
        """The prior U-Net, and the text encoder that learns with it."""
        config = self.scratch.prior
        unet, text = self.start_prior()
        sampler = CropSampler(bank, self.config.crop, self.cell, config.rare_share)

        def loss(batch: MicroBatch) -> Tensor:
            rng = random_generator("weights", self.config.seed, "prior", batch.step)
            places = sampler.draw(config.batch_size, rng)
            kinds = rng.random(config.batch_size)
            plain = kinds < config.empty_share + config.plain_share
            named = [None if p else str(w) for p, w in zip(plain, bank.weathers[places[:, 0]], strict=True)]
            prompts = captions(cut(bank.labels, places, self.config.crop, self.cell), named)
            prompts = ["" if kind < config.empty_share else prompt for kind, prompt in zip(kinds, prompts, strict=True)]
            crops = channels_first(cut(latents, places, self.cells, 1)).to(self.device)
            seed = derive_seed("weights", self.config.seed, "prior", "noise", batch.step)
            timesteps, noise = (drawn[batch.rows] for drawn in draw_noise(self.scheduler, seed, crops.shape))
            embeddings = text.embed(prompts[batch.rows])
            return diffusion_loss(unet, self.scheduler, crops[batch.rows], embeddings, (timesteps, noise))

        def preview(path: Path) -> None:
            scene = "road, sidewalk, building, pole, vegetation, sky, person, car"
            prompts = [PROMPT.format(classes=scene, weather=weather) for weather in WEATHERS for _ in range(2)]
            shape = self.scratch.vae.latent_channels, *self.cells
            images = decode(vae, sample(unet, self.scheduler, text, prompts, shape, guidance=GUIDANCE))
            save_sheet(path, [images[0::2], images[1::2]])

        self.train("prior", nn.ModuleDict({"unet": unet, "text_encoder": text.encoder}), loss, preview)
        return unet, text

    def start_prior(self) -> tuple[UNet2DConditionModel, Text]:
        """What the prior's training starts from: random weights, or those of the set that it goes on from."""
        if not published(self.folder / "tokenizer"):
            known = load_tokenizer(self.begun["tokenizer"]) if self.begun else None
            words = [PROMPT, PLAIN_PROMPT, *CLASS_NAMES, *WEATHERS]
            publish(known or build_tokenizer(words), self.folder / "tokenizer")
        tokenizer = load_tokenizer(self.folder / "tokenizer")
        if self.begun:
            encoder, unet = (
                load(CLIPTextModel, self.begun["text_encoder"]),
                load(UNet2DConditionModel, self.begun["unet"]),
            )
            return unet.requires_grad_(True), Text(tokenizer, encoder.requires_grad_(True))
        with initialization(self.config.seed, "prior"):
            encoder = build_text_encoder(self.scratch.prior, tokenizer)
            unet = build_unet(self.scratch.prior, self.scratch.vae.latent_channels, self.cells)
        return unet, Text(tokenizer, encoder)


class BankWorld:
    """Crops of a bank of renders whose latents (N, h, w, L) are known."""

    def __init__(self, config: WeightsConfig, bank: Bank, latents: np.ndarray, cell: int, device: torch.device) -> None:
        self._config, self._bank, self._latents, self._cell, self._device = config, bank, latents, cell, device

    def examples(self, name: str, tuning: FineTuning, batches: Sequence[MicroBatch]) -> Iterator[Examples]:
        """One `Examples` per micro-batch; the crops of a step are drawn together."""
        crop = self._config.crop
        sampler = CropSampler(self._bank, crop, self._cell, tuning.rare_share)
        for batch in batches:
            rng = random_generator("weights", self._config.seed, name, batch.step)
            places = sampler.draw(tuning.batch_size, rng)[batch.rows]
            latents = cut(self._latents, places, (crop[0] // self._cell, crop[1] // self._cell), 1)
            labels = cut(self._bank.labels, places, crop, self._cell)
            yield Examples(batch, channels_first(latents).to(self._device), labels)


def channels_first(latents: np.ndarray) -> Tensor:
    """(B, h, w, L) -> (B, L, h, w)."""
    return torch.from_numpy(latents).permute(0, 3, 1, 2).contiguous()


def reconstruction_loss(decoded: Tensor, pixels: Tensor, gradient: float) -> Tensor:
    """L1 + MSE, and L1 between horizontal and vertical differences, which keeps thin things sharp."""
    error = decoded - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + gradient * edges
