"""A miniature experiment: toy town of a few small pictures, a generator of random weights, four training iterations."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from generation.folders import PRETRAINED
from pipeline.config.experiment import ExperimentConfig, load_config
from tests.mini import MINI, write_mini


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with random weights in the diffusers layout."""
    from tests.tiny import write_tiny_generator  # imports diffusers: only the tests that generate wait for it

    return write_tiny_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture
def stand_in_weights(tmp_path: Path) -> Path:
    """A generator without weights that counts a prompt's tokens, for tests that generate nothing."""
    folder = tmp_path / "stand-in"
    toy = PRETRAINED / "toy-town"
    for component in ("vae", "text_encoder", "unet", "controlnet", "scheduler", "tokenizer"):
        shutil.copytree(toy / component, folder / component, ignore=shutil.ignore_patterns("*.safetensors"))
    for weights in toy.glob("*/*.safetensors"):
        (folder / weights.relative_to(toy)).touch()
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes the miniature's config over which `sections` are laid, with its store under the test's folder."""

    return partial(write_mini, tmp_path)


@pytest.fixture
def mini(write_config: Callable[..., Path], stand_in_weights: Path) -> Callable[..., ExperimentConfig]:
    """The miniature's config with overrides, for tests that generate nothing."""
    path = write_config(stand_in_weights)
    return lambda *overrides: load_config(path, overrides)


@pytest.fixture
def one_class_segmenter(tmp_path: Path) -> Callable[[str, int], Path]:
    """Writes a network of random weights that sees one class everywhere."""

    def write(name: str, class_id: int) -> Path:
        import torch

        from pipeline.config.training import NetworkConfig
        from training.networks import Segmenter

        network = Segmenter.create(NetworkConfig.model_validate(MINI["training"]["network"]), 0)
        with torch.no_grad():
            assert network.classifier.bias is not None
            network.classifier.bias[class_id] = 100
        network.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write
