"""Toy town's pretrained encoder: what it is trained on, how it is made, and that a segmenter starts from it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SegformerForImageClassification
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.weights_training import train_weights
from flows.run import Run
from pipeline.config.experiment import load_config
from pipeline.config.training import NetworkConfig
from pipeline.config.weights import Pretraining
from pipeline.errors import UserError
from pipeline.toytown import render_prior
from pipeline.work.progress import silent
from training import pretraining as module
from training.networks import Segmenter
from training.pretrained_encoders import SHIPPED, find_pretrained
from training.pretraining import ObjectCrops, accuracy, build_classifier

FILES = {"README.md", "config.json", "flexseg.json", "model.safetensors"}
TINY = [
    "pretraining={images: 12, test_images: 8, steps: 2, batch_size: 4, learning_rate: 1.0e-3, warmup: 1, ema: 0}",
    "training.network={hidden_sizes: [8, 8, 16, 16], depths: [1, 1, 1, 1], heads: [1, 1, 2, 2]}",
]


def pretraining(**changes: object) -> Pretraining:
    return Pretraining.model_validate({"steps": 1, "learning_rate": 1e-3, "side": 32, **changes})


def test_crops_show_the_class_in_their_middle() -> None:
    """At one size and unscaled, the middle px of a crop is a px of the render that has the class."""
    crops = ObjectCrops(pretraining(crop=(32, 32)), 0, 12, silent)
    renders = [render_prior(0, k, (96, 192), "sunny") for k in range(12)]
    rng = np.random.default_rng(0)
    for class_id in (0, 2, 13):
        colors = {tuple(c) for r in renders for c in r.image[r.label == class_id].tolist()}
        for image in crops.draw([class_id] * 5, rng).images.numpy():
            assert {tuple(image[:, 16, column].tolist()) for column in (15, 16)} & colors  # mirrored or not


def test_an_untrained_classifier_reads_a_nineteenth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equally many crops of each class: whoever always says one class is right in 1 of 19."""
    classifier = build_classifier(NetworkConfig.model_validate({"pretrained": None, "hidden_sizes": [8, 8, 16, 16]}), 0)
    with torch.no_grad():
        classifier.get_parameter("classifier.weight").zero_()
    monkeypatch.setattr(module, "TEST_CROPS", 2)
    crops = ObjectCrops(pretraining(), 12, 8, silent)
    assert accuracy(classifier.eval(), crops) == pytest.approx(1 / 19)


def test_a_class_that_no_render_shows_is_said() -> None:
    with pytest.raises(UserError, match="none of 1 renders shows 12 px of .*: raise pretraining.images"):
        ObjectCrops(pretraining(), 0, 1, silent)


def test_the_command_writes_what_a_segmenter_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEST_CROPS", 2)
    sets = [part for override in (*TINY, f"machine.store={tmp_path / 'store'}") for part in ("--set", override)]
    places = ["--output", str(tmp_path / "out"), "--ship", str(tmp_path / "ship")]
    done = CliRunner().invoke(app, ["weights", "train", "toy-encoder", *places, *sets])
    assert done.exit_code == 0, done.stderr
    assert {path.name for path in (tmp_path / "ship").iterdir()} == FILES
    (line,) = (tmp_path / "out/training/encoder/log.jsonl").read_text().splitlines()
    assert f"| 2 | 4 | 0.0 | {json.loads(line)['loss']:.3f} |" in (tmp_path / "ship/README.md").read_text()
    stored = SegformerForImageClassification.from_pretrained(tmp_path / "ship").base_model.state_dict()
    encoder = Segmenter.create(NetworkConfig(pretrained=str(tmp_path / "ship")), 0).encoder.state_dict()
    assert encoder.keys() == stored.keys()
    assert all(torch.equal(encoder[name], value) for name, value in stored.items())
    before = (tmp_path / "out/encoder/model.safetensors").stat().st_mtime_ns
    train_weights(Run(load_config("toy-encoder", [s for s in sets if s != "--set"])), tmp_path / "out")
    assert (tmp_path / "out/encoder/model.safetensors").stat().st_mtime_ns == before  # finished already


def test_the_encoder_that_ships_is_what_its_card_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, in less than 3 MB, and as right on renders that it was not trained on as the card says."""
    folder = find_pretrained("toy-town").folder
    assert folder.parent == SHIPPED
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    stated = re.search(r"\| ([0-9.]+)% \|", (folder / "README.md").read_text())
    assert stated is not None
    monkeypatch.setattr(module, "TEST_CROPS", 6)
    config = load_config("toy-encoder").pretraining
    assert config is not None
    classifier = SegformerForImageClassification.from_pretrained(folder).eval()
    found = accuracy(classifier, ObjectCrops(config, config.images, 30, silent))
    assert found == pytest.approx(float(stated[1]) / 100, abs=0.14)  # three standard errors of 114 crops
    assert Run(load_config("toy")).encoder_key("toy-town") == Run(load_config("toy")).encoder_key(str(folder))
