"""A tiny generator and label maps to paint."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import Dataset
from pipeline.data.datasets import Scene, find_scenes
from tests.tiny import write_tiny_generator


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    """Six road-and-sky maps; only the last one holds a train (16), 20x20 px in its lower right corner."""
    folder = tmp_path / "maps"
    folder.mkdir()
    for k in range(6):
        label = np.full((64, 128), 10, np.uint8)
        label[32:] = 0
        if k == 5:
            label[44:, 108:] = 16
        Image.fromarray(label).save(folder / f"{k}.png")
    return find_scenes(Dataset(name="maps", root=folder, layout="globs", labels="*.png", ids="train"))
