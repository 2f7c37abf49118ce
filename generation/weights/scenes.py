"""Examples from a labeled data set on disk: crops read and encoded while the training runs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from generation.crops import centered_corner, shrunk_size
from generation.models import scaled, to_pixels
from generation.weights.bank import RARE_CLASS_TEMPERATURE
from generation.weights.finetune import Examples
from generation.weights.loop import MicroBatch
from pipeline.config.weights import FineTuning, WeightsConfig
from pipeline.data.datasets import Scene, load_pair
from pipeline.data.image_files import image_size
from pipeline.data.labels import NUM_CLASSES
from pipeline.data.rare_classes import rare_class_probabilities
from pipeline.errors import UserError
from pipeline.seeding import random_generator

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
RARE_CLASS_PIXELS = 3000  # an image holds a class from this many px on (DGInStyle, released code)


class SceneWorld:
    """Crops of scenes with images, encoded by `vae`; `pixels` (N, 19) counts each scene's px per class."""

    def __init__(
        self,
        config: WeightsConfig,
        scenes: Sequence[Scene],
        pixels: np.ndarray,
        vae: AutoencoderKL,
        *,
        loader_workers: int = 0,
    ) -> None:
        self._config, self._scenes, self._pixels, self._vae = config, scenes, pixels, vae
        self._workers = loader_workers

    def examples(self, name: str, tuning: FineTuning, batches: Sequence[MicroBatch]) -> Iterator[Examples]:
        """One `Examples` per micro-batch. Which crop a row gets follows from the seed, `name`, the step and the row."""
        device, dtype = self._vae.device, DTYPES.get(self._config.precision)
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            Crops(self._config, tuning, name, self._scenes, self._pixels),
            batch_sampler=[
                [(batch.step, row) for row in range(batch.rows.start, batch.rows.stop)] for batch in batches
            ],
            num_workers=self._workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # the loader draws nothing that matters, but would advance the global one
        )
        for batch, (images, labels) in zip(batches, loader, strict=True):
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
                posterior = self._vae.encode(to_pixels(images.numpy()).to(device)).latent_dist
            yield Examples(batch, scaled(self._vae, posterior.mode().float()), labels.numpy())


class Crops(Dataset[Any]):
    """The crop of (step, row): image (H, W, 3) and label map (H, W), both uint8."""

    def __init__(
        self, config: WeightsConfig, tuning: FineTuning, name: str, scenes: Sequence[Scene], pixels: np.ndarray
    ) -> None:
        self._config, self._tuning, self._name, self._scenes = config, tuning, name, scenes
        self._holds = pixels > RARE_CLASS_PIXELS
        if not self._holds.any():  # images with less than that of every class: any occurrence counts
            self._holds = pixels > 0
        available = np.any(self._holds, axis=0)
        self._classes = rare_class_probabilities(pixels.sum(0), RARE_CLASS_TEMPERATURE, available)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        rng = random_generator("weights", self._config.seed, self._name, *key)
        class_id = None
        if rng.random() < self._tuning.rare_share:
            class_id = int(rng.choice(NUM_CLASSES, p=self._classes))
            scene = self._scenes[int(rng.choice(np.flatnonzero(self._holds[:, class_id])))]
        else:
            scene = self._scenes[int(rng.integers(len(self._scenes)))]
        image, label = load_pair(scene)
        scales = self._tuning.scales
        # One factor draws no number, so that trainings without the option stay what they are.
        scale = scales[int(rng.integers(len(scales)))] if len(scales) > 1 else scales[0]
        height, width = scaled_size(label.shape, self._tuning, scale)
        if (height, width) != label.shape:
            label = np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))
        if image.shape[:2] != label.shape:
            size = label.shape[1], label.shape[0]
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        top, left = crop_corner(label, self._config.crop, class_id, rng)
        window = np.s_[top : top + self._config.crop[0], left : left + self._config.crop[1]]
        return np.ascontiguousarray(image[window]), np.ascontiguousarray(label[window])


def crop_corner(
    label: np.ndarray, size: tuple[int, int], class_id: int | None, rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left of a crop: centered, as far as it fits, on a random px of the class (DGInStyle, released code), or
    anywhere where no class is asked for or the map does not show it."""
    places = np.flatnonzero(label == class_id) if class_id is not None else np.empty(0)
    if len(places) == 0:
        room = label.shape[0] - size[0], label.shape[1] - size[1]
        return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
    return centered_corner(label.shape, size, int(places[rng.integers(len(places))]))


def scaled_size(size: tuple[int, ...], tuning: FineTuning, scale: float) -> tuple[int, int]:
    """(height, width) of a scene of `size` once it is resized to the height and by the factor of a training."""
    height, width = shrunk_size(size[0], size[1], tuning.height)
    return int(height * scale), int(width * scale)


def check_scenes(config: WeightsConfig, scenes: Sequence[Scene], pixels: np.ndarray, *, multiple: int) -> None:
    """UserError where the crop is no `multiple` of what VAE and U-Net halve, where a scene is smaller than the crop
    (read from its header), or where no label map holds a class."""
    if any(side % multiple for side in config.crop):
        raise UserError(f"weights.crop is {list(config.crop)} px, wanted multiples of {multiple} px: round both sides")
    if not pixels.any():
        raise UserError(
            f"none of the {len(scenes)} label maps holds a class, all pixels are ignored: correct 'ids' of data.source"
        )
    for name, tuning in (("source", config.source), ("controlnet", config.controlnet)):
        if isinstance(tuning, str):
            continue
        for scene in scenes:
            height, width = scaled_size(image_size(scene.label, "label"), tuning, min(tuning.scales))
            if height < config.crop[0] or width < config.crop[1]:
                raise UserError(
                    f"{scene.label} is {width}x{height} px for weights.{name}, smaller than weights.crop of"
                    f" {config.crop[1]}x{config.crop[0]} px: lower the crop, or raise its 'height' or 'scales'"
                )
