"""Prediction: any size, one scale or two, and folders that hold no segmenter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate

from pipeline.config.training import HrdaConfig, TrainingConfig
from pipeline.errors import UserError
from pipeline.seeding import random_generator
from training.networks import LAYOUT_VERSION, Segmenter, network_input
from training.predict import load_network, predict_labels, predictor


def segmenter_of(config: TrainingConfig, hrda: HrdaConfig | None = None) -> Segmenter:
    small = {"hrda": hrda, "reductions": (1, 1, 1, 1)}  # published reductions want 64 px and more
    segmenter = Segmenter.create(config.network.model_copy(update=small), 0).eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(segmenter.classifier.weight)  # so that classes differ from place to place
    return segmenter


def photo(height: int, width: int) -> np.ndarray:
    return random_generator("photo", height, width).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("two_scales", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("size", [(64, 96), (61, 90), (40, 33)])
def test_any_size(tiny_config: TrainingConfig, size: tuple[int, int], scale: float, two_scales: bool) -> None:
    hrda = HrdaConfig(detail_crop=(32, 32), attention_channels=8) if two_scales else None
    labels = predict_labels(segmenter_of(tiny_config, hrda), photo(*size), scale)
    assert labels.shape == size
    assert labels.dtype == np.uint8
    assert 1 < len(np.unique(labels)) <= 19


@pytest.mark.parametrize("hrda", [None, HrdaConfig(detail_crop=(32, 32), attention_channels=8)])
def test_small_images_and_published_reductions(tiny_config: TrainingConfig, hrda: HrdaConfig | None) -> None:
    segmenter = Segmenter.create(tiny_config.network.model_copy(update={"hrda": hrda}), 0).eval()
    assert tiny_config.network.reductions == (8, 4, 2, 1)
    assert predict_labels(segmenter, photo(9, 40), 1.0).shape == (9, 40)


def test_labels_are_the_largest_upsampled_logits(tiny_config: TrainingConfig) -> None:
    hrda = HrdaConfig(detail_crop=(32, 32), attention_channels=8)
    segmenter = segmenter_of(tiny_config, hrda)
    pixels = torch.tensor(photo(64, 96)).movedim(2, 0)[None].float()
    with torch.inference_mode():
        logits = segmenter(network_input(pixels, 2.0)).logits
    wanted = interpolate(logits, (64, 96), mode="bilinear", align_corners=False).argmax(dim=1)[0]
    assert np.array_equal(predict_labels(segmenter, photo(64, 96), 2.0), wanted)


def test_border_that_is_added_is_cut_off_again(tiny_config: TrainingConfig) -> None:
    """61 x 90 px are seen as 64 x 96 px whose last rows and columns repeat, and labeled in place."""
    segmenter = segmenter_of(tiny_config, HrdaConfig(detail_crop=(32, 32), attention_channels=8))
    image = photo(61, 90)
    wider = np.pad(image, ((0, 3), (0, 6), (0, 0)), mode="edge")
    assert np.array_equal(predict_labels(segmenter, image, 1.0), predict_labels(segmenter, wider, 1.0)[:61, :90])


def test_predictor_reads_what_was_saved(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    segmenter = segmenter_of(tiny_config)
    segmenter.save_pretrained(tmp_path)
    image = photo(32, 64)
    assert np.array_equal(predictor(tmp_path, 1.0, "cpu")(image), predict_labels(segmenter, image, 1.0))
    pixels = torch.tensor(image).movedim(2, 0)[None].float()
    with torch.inference_mode():
        bare = load_network(tmp_path, "cpu")(pixels)
        assert torch.equal(bare, segmenter(network_input(pixels, 1.0)).logits)


def test_folders_that_hold_no_segmenter(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trained segmenter"):
        predictor(tmp_path, 1.0, "cpu")
    segmenter_of(tiny_config).save_pretrained(tmp_path)
    weights, config = load_file(tmp_path / "model.safetensors"), (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    with pytest.raises(UserError, match="holds no segmenter of flexseg"):
        predictor(tmp_path, 1.0, "cpu")
    (tmp_path / "config.json").write_text(config)
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not all of it"):  # not silently with random weights
        predictor(tmp_path, 1.0, "cpu")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="not all of it") as caught:
        predictor(tmp_path, 1.0, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (LAYOUT_VERSION + 1, "a newer flexseg .*: install that flexseg"),
        (0, "another flexseg .*: convert or train it again"),
        ("x", "another flexseg"),
        (None, "another flexseg"),
    ],
)
def test_a_segmenter_of_another_layout_is_refused(
    tiny_config: TrainingConfig, tmp_path: Path, version: object, said: str
) -> None:
    """Issue 10, section 7; folders that were stored before there was a version are of the first one."""
    segmenter_of(tiny_config).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["layout_version"] == LAYOUT_VERSION
    (tmp_path / "config.json").write_text(json.dumps({**config, "layout_version": version, "another_option": 1}))
    with pytest.raises(UserError, match=said) as caught:
        predictor(tmp_path, 1.0, "cpu")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match=said):
        Segmenter.from_pretrained(tmp_path)
    del config["layout_version"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    predictor(tmp_path, 1.0, "cpu")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "null", '{"encoder": 3}', '{"encoder": {"model_type": "zz"}}', "[" * 9999]
)
def test_a_config_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="holds no segmenter of flexseg") as caught:
        predictor(tmp_path, 1.0, "cpu")
    assert "\n" not in str(caught.value)
