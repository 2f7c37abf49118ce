"""The tiny encoder that ships: what ImageNet is to a published one, learned in toy town's world.

It classifies crops around objects of the prior's random towns under a clear sky: never a target's style, never a
target's scene, no other weather.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from pipeline.config.machine import Machine
from pipeline.config.training import NetworkConfig
from pipeline.config.weights import Pretraining
from pipeline.data.labels import CLASS_NAMES, NUM_CLASSES
from pipeline.errors import UserError
from pipeline.seeding import derive_seed, random_generator
from pipeline.toytown import render_prior
from pipeline.work.devices import device_of
from pipeline.work.progress import Track, silent
from training.encoders import encoder_config
from training.networks import network_input

WEATHER = "sunny"
SMALLEST = 12  # px that a render must show of a class to count as holding it
TEST_CROPS = 40  # per class


class CropBatch(NamedTuple):
    """Images (B, 3, side, side) uint8 and the class of the px in their middle (B,)."""

    images: Tensor
    classes: Tensor


class ObjectCrops:
    """Crops around objects of the renders `first`, `first + 1`, ..., every class equally often."""

    def __init__(self, config: Pretraining, first: int, count: int, progress: Track) -> None:
        renders = [
            render_prior(config.seed, k, config.size, WEATHER)
            for k in progress(range(first, first + count), total=count, description="Rendering object crops")
        ]
        self._config = config
        reach = config.crop[1] // 2
        frame = ((reach, reach), (reach, reach))  # so that a crop around any px fits
        self._images = np.stack([np.pad(render.image, (*frame, (0, 0)), mode="reflect") for render in renders])
        self._labels = np.stack([render.label for render in renders])
        self._holders = [np.flatnonzero((self._labels == k).sum((1, 2)) >= SMALLEST) for k in range(NUM_CLASSES)]
        if lacking := [name for name, held in zip(CLASS_NAMES, self._holders, strict=True) if not len(held)]:
            raise UserError(
                f"none of {count} renders shows {SMALLEST} px of {lacking[0]}: raise pretraining.images and"
                " pretraining.test_images"
            )

    def draw(self, classes: Sequence[int], rng: np.random.Generator) -> CropBatch:
        """One crop for each of `classes`: around a random px of it, at a random size, mirrored or not."""
        return CropBatch(torch.from_numpy(np.stack([self._cut(k, rng) for k in classes])), torch.tensor(classes))

    def _cut(self, class_id: int, rng: np.random.Generator) -> np.ndarray:
        low, high = self._config.crop
        index = int(rng.choice(self._holders[class_id]))
        places = np.argwhere(self._labels[index] == class_id)
        side = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
        top, left = places[rng.integers(len(places))] + high // 2 - side // 2
        crop = Image.fromarray(self._images[index, top : top + side, left : left + side])
        shown = np.asarray(crop.resize((self._config.side,) * 2, Image.Resampling.BILINEAR))
        return np.ascontiguousarray((shown[:, ::-1] if rng.random() < 0.5 else shown).transpose(2, 0, 1))


def pretrain(
    config: Pretraining,
    network: NetworkConfig,
    folder: Path,
    *,
    fit: Callable[..., None],
    machine: Machine,
    progress: Track = silent,
) -> tuple[PreTrainedModel, float]:
    """The trained classifier, and the share of test crops that it reads right, every class equally often.

    `fit` is `generation.weights.loop.train_network`: `folder` receives its log, and its checkpoints for a later call.
    """
    accelerator = partial(Accelerator, cpu=device_of(machine).type == "cpu")
    classifier = build_classifier(network, config.seed).to(accelerator().device)
    crops = ObjectCrops(config, 0, config.images, progress)

    def batches(parts: Sequence[Any]) -> Iterator[CropBatch]:
        for part in parts:
            rng = random_generator("pretraining", config.seed, part.step)
            drawn = crops.draw([int(k) for k in rng.integers(NUM_CLASSES, size=config.batch_size)], rng)
            yield CropBatch(*(values[part.rows] for values in drawn))

    classifier.train()
    fit(classifier, batches, crop_loss, config, folder, accelerator=accelerator, progress=progress)
    classifier.eval()
    return classifier, accuracy(classifier, ObjectCrops(config, config.images, config.test_images, progress))


def build_classifier(config: NetworkConfig, seed: int) -> PreTrainedModel:
    """The encoder of `config`'s sizes with transformers' linear classifier of its mean feature, as MiTs are
    published."""
    names = dict(enumerate(CLASS_NAMES))
    sizes = {**encoder_config(config), "id2label": names, "label2id": {name: k for k, name in names.items()}}
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed("pretraining", seed))
        classifier: PreTrainedModel = AutoModelForImageClassification.from_config(AutoConfig.for_model(**sizes))
    return classifier


def crop_loss(classifier: nn.Module, crops: CropBatch) -> Tensor:
    """Cross-entropy of the class in the middle."""
    return nn.functional.cross_entropy(crop_logits(classifier, crops), crops.classes.to(_device(classifier)))


def crop_logits(classifier: nn.Module, crops: CropBatch) -> Tensor:
    """(B, 19)."""
    logits: Tensor = classifier(network_input(crops.images.to(_device(classifier)).float(), 1.0)).logits
    return logits


@torch.inference_mode()
def accuracy(classifier: nn.Module, crops: ObjectCrops) -> float:
    """Share of crops, equally many per class, whose class is read right."""
    rng = random_generator("pretraining test")
    right = []
    for class_id in range(NUM_CLASSES):
        drawn = crops.draw([class_id] * TEST_CROPS, rng)
        right.append((crop_logits(classifier, drawn).argmax(1).cpu() == drawn.classes).float().mean())
    return float(torch.stack(right).mean())


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
