"""A tiny generator and label maps to paint."""

from pathlib import Path

import pytest

from pipeline.data.datasets import Scene
from tests.tiny import write_maps, write_tiny_generator


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    """Six road-and-sky maps; only the last one holds a train (16), 20x20 px in its lower right corner."""
    return write_maps(tmp_path / "maps")
