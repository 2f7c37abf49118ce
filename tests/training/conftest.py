"""A tiny world for the training loop: 32x64 px scenes of colored blocks, and generated images of the same kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.training import TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.labels import CLASSES, TRAIN_IDS
from pipeline.seeding import random_generator


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than they give on networks of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def paint(name: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (32,64,3) and its label (32,64): four classes in blocks, in noisy class colors."""
    random = random_generator("tiny world", name, index)
    label = np.repeat(np.repeat(random.choice([0, 2, 10, 13], (4, 8)), 8, axis=0), 8, axis=1).astype(np.uint8)
    colors = np.array([c.color for c in CLASSES])[label]
    label[:2] = 255
    return (colors + random.normal(0, 10, colors.shape)).clip(0, 255).astype(np.uint8), label


def write_scenes(folder: Path) -> list[Scene]:
    """Ten painted scenes, as PNG files in `folder`."""
    made = []
    for index in range(10):
        image, label = paint("source", index)
        paths = folder / f"{index}.png", folder / f"{index}_label.png"
        for path, pixels in zip(paths, (image, label), strict=True):
            Image.fromarray(pixels).save(path)
        made.append(Scene(str(index), *paths, TRAIN_IDS))
    return made


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """A generated data set of eight 40x48 px images, two of them painted from each of the first four scenes."""
    rows = []
    for index in range(8):
        image, label = (Image.fromarray(pixels).resize((48, 40), 0) for pixels in paint("generated", index))
        rows.append({"image": image, "label": label, "source": str(index // 2), "prompt": "a street"})
    columns = {"image": datasets.Image(), "label": datasets.Image()}
    strings = {"source": datasets.Value("string"), "prompt": datasets.Value("string")}
    folder = tmp_path / "generated"
    (folder / "data").mkdir(parents=True)
    rows_of_shards = datasets.Dataset.from_list(rows, features=datasets.Features({**columns, **strings}))
    for shard in range(2):
        name = folder / "data" / f"train-{shard:05d}-of-00002.parquet"
        rows_of_shards.shard(2, shard, contiguous=True).to_parquet(name)
    return folder


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    return write_scenes(tmp_path)


@pytest.fixture
def tiny_config() -> TrainingConfig:
    return TrainingConfig.model_validate(TINY)


TINY: dict[str, Any] = {
    "network": {
        "pretrained": None,
        "hidden_sizes": (8, 8, 16, 16),
        "depths": (1, 1, 1, 1),
        "heads": (1, 1, 2, 2),
        "channels": 16,
    },
    "iterations": 12,
    "batch_size": 2,
    "source_size": None,
    "crop": (32, 32),
    "rare_class_pixels": 50,
    "rare_class_crop": 25,
    "optimizer": {"learning_rate": 1e-3, "warmup": 2},
    "block": 3,
    "checkpoint_every": 6,
    "validation_every": 6,
    "validation_scenes": 2,
}
