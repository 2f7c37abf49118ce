"""The four trainings in order: VAE, prior U-Net with text encoder, source U-Net, ControlNet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from generation.crops import one_hot
from generation.networks import (
    build_controlnet,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
)
from generation.weights.bank import CAPTION, PLAIN_CAPTION, Bank, CropSampler, captions, cut, load_bank
from generation.weights.diffusion import (
    Text,
    decode,
    diffusion_loss,
    encode,
    normalize_latents,
    sample,
    save_sheet,
    to_images,
    to_tensor,
)
from generation.weights.fit import fit
from pipeline.config.weights import WeightsConfig
from pipeline.labels import CLASS_NAMES
from pipeline.pictures import colorize
from pipeline.progress import Track, silent
from pipeline.seeding import derive_seed, generator
from pipeline.toytown import WEATHERS


def train_weights(config: WeightsConfig, folder: Path, *, progress: Track = silent) -> None:
    """Train the whole generator into `folder`, in the diffusers layout of a StableDiffusionControlNetPipeline.

    Every finished part is kept and every training continues from its last checkpoint, so an interrupted call is
    simply repeated. Logs and previews lie in `folder/training/<part>`.
    """
    if not (folder / "model_index.json").exists():  # written last
        Training(config, folder, progress).run()


class Training:
    """The trainings' common ground: config, folder, renders and latents. Parts are built in the order of `run`."""

    def __init__(self, config: WeightsConfig, folder: Path, progress: Track) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress
        self.cell = 2 ** (len(config.vae.channels) - 1)
        self.cells = config.crop[0] // self.cell, config.crop[1] // self.cell
        self.shape = config.vae.latent_channels, *self.cells
        self.scheduler = build_scheduler()
        self.device = PartialState().device

    def run(self) -> None:
        """All parts, then the files that make them one pipeline."""
        prior, source = self.bank("prior", self.config.prior_images), self.bank("source", self.config.source_images)
        vae = self.part("vae", AutoencoderKL, lambda: self.train_vae(prior, source))
        prior_latents, source_latents = self.latents("prior", vae, prior), self.latents("source", vae, source)
        if not (self.folder / "unet").exists():
            unet, text = self.train_prior(vae, prior, prior_latents)
            text.encoder.save_pretrained(self.folder / "text_encoder")
            self.publish("unet", unet)
        text = self.text()
        source_unet = self.part(
            "source_unet", UNet2DConditionModel, lambda: self.train_source(text, source, source_latents)
        )
        if not (self.folder / "controlnet").exists():
            self.publish("controlnet", self.train_controlnet(vae, source_unet, text, source, source_latents))
        StableDiffusionControlNetPipeline(
            vae=vae,
            text_encoder=text.encoder,
            tokenizer=text.tokenizer,
            unet=UNet2DConditionModel.from_pretrained(self.folder / "unet"),
            controlnet=ControlNetModel.from_pretrained(self.folder / "controlnet"),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(self.folder)

    def bank(self, world: str, count: int) -> Bank:
        """Renders of `world`, rendered once per folder."""
        path = self.folder / "bank" / f"{world}.npz"
        return load_bank(path, world, self.config.seed, count, self.config.size, progress=self.progress)

    def latents(self, world: str, vae: AutoencoderKL, bank: Bank) -> np.ndarray:
        """The bank's latents (N, h, w, L), encoded once per folder."""
        path = self.folder / "bank" / f"{world}-latents.npy"
        if not path.exists():
            np.save(path.with_suffix(".partial.npy"), encode(vae, bank.images))
            path.with_suffix(".partial.npy").replace(path)
        return np.load(path)

    def publish(self, name: str, network: Any) -> None:
        """Save a finished network so that its folder appears only complete."""
        network.save_pretrained(self.folder / f"{name}.partial")
        (self.folder / f"{name}.partial").replace(self.folder / name)

    def part(self, name: str, kind: Any, train: Callable[[], nn.Module]) -> Any:
        """The trained network `name`, frozen; trained now if it is not there yet."""
        if not (self.folder / name).exists():
            self.publish(name, train())
        return kind.from_pretrained(self.folder / name).to(self.device).eval().requires_grad_(False)

    def text(self) -> Text:
        """The trained text encoder with its tokenizer, frozen."""
        encoder = CLIPTextModel.from_pretrained(self.folder / "text_encoder").to(self.device)
        return Text(CLIPTokenizer.from_pretrained(self.folder / "tokenizer"), encoder.eval().requires_grad_(False))

    @contextmanager
    def initialization(self, name: str) -> Iterator[None]:
        """Networks built inside get initial weights that depend on the config's seed and `name` alone."""
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed("weights", self.config.seed, name))
            yield

    def rng(self, name: str, step: int) -> np.random.Generator:
        """The generator of one step of the training `name`."""
        return generator("weights", self.config.seed, name, step)

    def train_vae(self, *banks: Bank) -> AutoencoderKL:
        """The autoencoder, on square crops of both banks; its latents end with mean 0 and variance 1 per channel."""
        config = self.config.vae
        with self.initialization("vae"):
            vae = build_vae(config)
        images = np.concatenate([bank.images for bank in banks])

        def crops(rng: np.random.Generator) -> Tensor:
            room = np.array(images.shape[1:3]) - config.crop
            corners = rng.integers(0, room + 1, (config.batch_size, 2))
            places = np.column_stack([rng.integers(len(images), size=config.batch_size), corners])
            return to_tensor(cut(images, places, (config.crop, config.crop), 1)).to(vae.device)

        def loss(step: int) -> Tensor:
            pixels = crops(self.rng("vae", step))
            posterior = vae.encode(pixels).latent_dist
            noise = torch.Generator().manual_seed(derive_seed("weights", self.config.seed, "vae noise", step))
            decoded = vae.decode(posterior.sample(noise)).sample
            divergence = posterior.kl().mean() / posterior.mean[0].numel()  # per latent value
            return reconstruction_loss(decoded, pixels, config.gradient) + config.kl * divergence

        examples = images[:: max(len(images) // 5, 1)][:5]

        @torch.inference_mode()
        def preview(path: Path) -> None:
            pixels = to_tensor(examples).to(vae.device)
            save_sheet(path, [examples, to_images(vae.decode(vae.encode(pixels).latent_dist.mode()).sample)])

        fit(vae, loss, config, self.folder / "training" / "vae", preview=preview, progress=self.progress)
        normalize_latents(vae, encode(vae, images[:: max(len(images) // 400, 1)]))
        return vae

    def train_prior(self, vae: AutoencoderKL, bank: Bank, latents: np.ndarray) -> tuple[UNet2DConditionModel, Text]:
        """The prior U-Net, and the text encoder that learns with it."""
        config = self.config.prior
        tokenizer = build_tokenizer(self.folder / "tokenizer", [CAPTION, PLAIN_CAPTION, *CLASS_NAMES, *WEATHERS])
        with self.initialization("prior"):
            encoder = build_text_encoder(config, tokenizer)
            unet = build_unet(config, self.config.vae.latent_channels, self.cells)
        text = Text(tokenizer, encoder)
        sampler = CropSampler(bank, self.config.crop, self.cell, self.config.rare_share)

        def loss(step: int) -> Tensor:
            rng = self.rng("prior", step)
            places = sampler.draw(config.batch_size, rng)
            kinds = rng.random(config.batch_size)
            plain = kinds < config.empty_share + config.plain_share
            named = [None if p else str(w) for p, w in zip(plain, bank.weathers[places[:, 0]], strict=True)]
            prompts = captions(cut(bank.labels, places, self.config.crop, self.cell), named)
            prompts = ["" if kind < config.empty_share else prompt for kind, prompt in zip(kinds, prompts, strict=True)]
            return self.loss("prior", step, unet, self.crop(latents, places), text.embed(prompts))

        def preview(path: Path) -> None:
            scene = "road, sidewalk, building, pole, vegetation, sky, person, car"
            prompts = [CAPTION.format(classes=scene, weather=weather) for weather in WEATHERS for _ in range(2)]
            images = decode(vae, sample(unet, self.scheduler, text, prompts, self.shape))
            save_sheet(path, [images[0::2], images[1::2]])

        networks = nn.ModuleDict({"unet": unet, "text_encoder": encoder})
        fit(networks, loss, config, self.folder / "training" / "prior", preview=preview, progress=self.progress)
        return unet, text

    def train_source(self, text: Text, bank: Bank, latents: np.ndarray) -> UNet2DConditionModel:
        """The source U-Net: the prior fine-tuned on the source, empty prompt (DreamBooth, no prior preservation)."""
        config = self.config.source
        unet = UNet2DConditionModel.from_pretrained(self.folder / "unet")
        sampler = CropSampler(bank, self.config.crop, self.cell, self.config.rare_share)
        empty = text.embed([""]).repeat(config.batch_size, 1, 1)

        def loss(step: int) -> Tensor:
            places = sampler.draw(config.batch_size, self.rng("source", step))
            return self.loss("source", step, unet, self.crop(latents, places), empty)

        fit(unet, loss, config, self.folder / "training" / "source", progress=self.progress)
        return unet

    def train_controlnet(
        self, vae: AutoencoderKL, source_unet: UNet2DConditionModel, text: Text, bank: Bank, latents: np.ndarray
    ) -> ControlNetModel:
        """The ControlNet on the frozen source U-Net; previews drive the prior U-Net instead (style swap)."""
        config = self.config.controlnet
        with self.initialization("controlnet"):
            controlnet = build_controlnet(source_unet, len(self.config.vae.channels))
        sampler = CropSampler(bank, self.config.crop, self.cell, self.config.rare_share)

        def draw(step: int) -> tuple[np.ndarray, np.ndarray]:
            places = sampler.draw(config.batch_size, self.rng("controlnet", step))
            return places, cut(bank.labels, places, self.config.crop, self.cell)

        def loss(step: int) -> Tensor:
            places, labels = draw(step)
            embeddings = text.embed(captions(labels, [None] * len(labels)))
            control = controlnet, torch.from_numpy(one_hot(labels)).to(self.device)
            return self.loss("controlnet", step, source_unet, self.crop(latents, places), embeddings, control)

        def preview(path: Path) -> None:
            prior = UNet2DConditionModel.from_pretrained(self.folder / "unet").to(self.device).eval()
            labels = draw(-1)[1][:3]
            prompts = [prompt for weather in WEATHERS for prompt in captions(labels, [weather] * len(labels))]
            condition = torch.from_numpy(one_hot(labels)).repeat(len(WEATHERS), 1, 1, 1).to(self.device)
            images = decode(vae, sample(prior, self.scheduler, text, prompts, self.shape, (controlnet, condition)))
            save_sheet(path, [colorize(labels), *np.split(images, len(WEATHERS))])

        fit(controlnet, loss, config, self.folder / "training" / "controlnet", preview=preview, progress=self.progress)
        return controlnet

    def loss(
        self,
        name: str,
        step: int,
        unet: UNet2DConditionModel,
        latents: Tensor,
        text: Tensor,
        control: tuple[ControlNetModel, Tensor] | None = None,
    ) -> Tensor:
        """The diffusion loss of one step of the training `name`."""
        seed = derive_seed("weights", self.config.seed, name, "noise", step)
        return diffusion_loss(unet, self.scheduler, latents, text, seed, control)

    def crop(self, latents: np.ndarray, places: np.ndarray) -> Tensor:
        """Latents (B, L, h, w) of the crops."""
        return torch.from_numpy(cut(latents, places, self.cells, 1)).permute(0, 3, 1, 2).contiguous().to(self.device)


def reconstruction_loss(decoded: Tensor, pixels: Tensor, gradient: float) -> Tensor:
    """L1 + MSE, and L1 between horizontal and vertical differences, which keeps thin things sharp."""
    error = decoded - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + gradient * edges
