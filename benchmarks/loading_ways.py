"""How crops are cut elsewhere, to stand beside `training.data`: by mmseg, and by flexseg until November 2026."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from pipeline.config.training import TrainingConfig
from pipeline.data.datasets import Scene, check_pair
from pipeline.data.labels import IGNORE, check_values
from pipeline.data.resizing import cut
from pipeline.seeding import random_generator
from training.data import Batch, TrainingSet
from training.draws import Draw
from training.photometric import draw_distortion
from training.pools import ScenePool, fitting

MEAN, DEVIATION = np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)
NEVER = 10_000
"""How often each file is in the data set, so that no pool keeps it in memory."""


class Peers:
    """mmseg's pipeline. Whole: with colors, and with everything read again for another crop."""

    def __init__(self, scenes: Sequence[Scene], config: TrainingConfig, *, whole: bool) -> None:
        self.scenes, self.config, self.whole = scenes, config, whole

    def __call__(self, draw: Draw) -> object:
        rng = random_generator("peers", draw.iteration)
        image, label = self._loaded(draw.image)
        for _ in range(10):
            picture, ids = self._cropped(image, label, rng)
            if draw.wanted_class < 0 or (ids == draw.wanted_class).sum() > self.config.rare_class_crop:
                break
            if self.whole:
                image, label = self._loaded(draw.image)
        if rng.random() < 0.5:
            picture, ids = picture[:, ::-1], ids[:, ::-1]
        if self.whole:
            picture = (_distorted(np.ascontiguousarray(picture), rng)[..., ::-1] - MEAN) / DEVIATION
        return torch.tensor(picture.transpose(2, 0, 1).copy()), torch.tensor(ids.astype(np.int64))

    def _loaded(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        scene = self.scenes[index]
        image = cv2.imread(str(scene.image), cv2.IMREAD_COLOR)
        label = np.asarray(Image.open(scene.label))
        assert self.config.source_size is not None and image is not None
        size = fitting(label.shape, self.config.source_size)[::-1]
        small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        return small, cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)

    def _cropped(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.config.crop
        for _ in range(10):
            top, left = rng.integers((label.shape[0] - height + 1, label.shape[1] - width + 1))
            window = np.s_[top : top + height, left : left + width]
            values, counts = np.unique(label[window], return_counts=True)
            counts = counts[values != IGNORE]
            if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
                break
        return image[window], label[window]


def _distorted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """mmseg's PhotoMetricDistortion of a BGR image."""

    def scaled(pixels: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
        return np.clip(pixels.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    if rng.integers(2):
        image = scaled(image, beta=rng.uniform(-32, 32))
    contrast_first = rng.integers(2)
    if contrast_first and rng.integers(2):
        image = scaled(image, rng.uniform(0.5, 1.5))
    if rng.integers(2):
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        image[..., 1] = scaled(image[..., 1], rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if rng.integers(2):
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        image[..., 0] = (image[..., 0].astype(int) + rng.integers(-18, 18)) % 180
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if not contrast_first and rng.integers(2):
        image = scaled(image, rng.uniform(0.5, 1.5))
    return image


class Before:
    """flexseg's own way until November 2026, of one filter. The rules of crops have not changed since."""

    def __init__(self, scenes: Sequence[Scene], config: TrainingConfig) -> None:
        self.scenes, self.config = scenes, config
        self.rules = TrainingSet([ScenePool(list(scenes) * NEVER, config.source_size)], config, 0)

    def __call__(self, draw: Draw) -> Batch:
        rng = random_generator(0, "sample", draw.iteration, draw.position)
        image, label = self._loaded(draw.image)
        box = self.rules.crop_box(label, draw.wanted_class, rng)
        image, label = cut(image, box), cut(label, box)
        if rng.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        return Batch(
            torch.tensor(image.transpose(2, 0, 1).copy()),
            torch.tensor(label.copy()),
            torch.tensor(draw_distortion(rng)),
        )

    def _loaded(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        scene = self.scenes[index]
        check_pair(scene)
        with Image.open(str(scene.image)) as file:
            image = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
        with Image.open(scene.label) as file:
            check_values(scene.label, np.array(file.histogram()), scene.ids)
            label = np.asarray(file.point(list(range(256))))
        assert self.config.source_size is not None
        size = fitting(label.shape, self.config.source_size)[::-1]
        if self.config.source_filter == "released":
            small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            return small, cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        return small, np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
