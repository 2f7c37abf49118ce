"""A miniature experiment: toy town of a few small pictures, a generator of random weights, four training iterations."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from generation.folders import PRETRAINED
from pipeline.config.experiment import ExperimentConfig, load_config

MINI: dict[str, Any] = {
    "data": {"toytown": {"source_images": 8, "target_images": 2, "size": [64, 128]}},
    "generation": {
        "counts": {"plain": 2, "foggy": 2},
        "size": [32, 64],
        "steps": 2,
        "shard_size": 2,
        "rare_class_pixels": 20,
    },
    "training": {
        "seeds": [0],
        "network": {
            "pretrained": None,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "heads": [1, 1, 2, 2],
            "channels": 16,
        },
        "iterations": 4,
        "batch_size": 2,
        "source_size": None,
        "crop": [32, 64],
        "block": 2,
        "checkpoint_every": 2,
        "validation_every": 4,
        "validation_scenes": 2,
        "rare_class_pixels": 20,
        "rare_class_crop": 10,
        "optimizer": {"warmup": 1},
    },
    "evaluation": {"keep_predictions": 1},
    "machine": {"device": "cpu", "workers": 1},  # a process more costs 20 s of imports
}


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with random weights in the diffusers layout."""
    from tests.tiny import write_tiny_generator  # imports diffusers: only the tests that generate wait for it

    return write_tiny_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture
def stand_in_weights(tmp_path: Path) -> Path:
    """A folder that looks like a generator and counts a prompt's tokens, for tests that generate nothing."""
    folder = tmp_path / "stand-in"
    for component in ("vae", "text_encoder", "unet", "controlnet", "scheduler"):
        (folder / component).mkdir(parents=True)
    toy = PRETRAINED / "toy-town"
    shutil.copytree(toy / "tokenizer", folder / "tokenizer")
    shutil.copyfile(toy / "text_encoder/config.json", folder / "text_encoder/config.json")
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes the miniature's config over which `sections` are laid, with its store under the test's folder."""

    def write(weights: Path, **sections: Any) -> Path:
        content = {**MINI, **sections}
        if content["generation"] is not None:
            content["generation"] = {**content["generation"], "weights": str(weights)}
        places = {"store": str(tmp_path / "store"), "output": str(tmp_path / "runs")}
        content["machine"] = {**content["machine"], **places}
        path = tmp_path / "mini.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


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
