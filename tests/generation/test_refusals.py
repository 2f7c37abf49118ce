"""Weights that cannot be painted with are refused in one line before anything is loaded; palettes are stated."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from pydantic import ValidationError

from generation.crops import LabelReader
from generation.folders import weights_fingerprint, weights_folders
from generation.models import load_networks
from generation.networks import build_controlnet
from generation.paint import Painter
from generation.palettes import ADE20K, colors
from pipeline.config.generation import GenerationConfig
from pipeline.config.weights import GeneratorParts
from pipeline.data.datasets import Scene
from pipeline.data.labels import CLASS_NAMES, CLASSES
from pipeline.errors import UserError
from pipeline.requests import Box, GenerationRequest

CITYSCAPES = {c.name: c.color for c in CLASSES}


@pytest.fixture
def weights(tiny_weights: Path, tmp_path: Path) -> Path:
    """A copy of the tiny generator that a test may spoil."""
    return Path(shutil.copytree(tiny_weights, tmp_path / "weights"))


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("component", "file", "lacks"),
    [
        ("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("vae", "config.json", "config.json"),
        ("text_encoder", "model.safetensors", "model.safetensors"),
        ("scheduler", "scheduler_config.json", "scheduler_config.json"),
        ("tokenizer", "tokenizer.json", "vocab.json"),
    ],
)
def test_an_incomplete_checkpoint_is_named(weights: Path, component: str, file: str, lacks: str) -> None:
    (weights / component / file).unlink()
    with pytest.raises(UserError, match=rf"weights/{component} is incomplete, it lacks {lacks}: fetch or train the"):
        weights_folders(str(weights))


def test_weights_in_several_files_are_complete_with_all_of_them(weights: Path) -> None:
    unet = weights / "unet"
    names = [f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / names[0])
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=rf"unet is incomplete, it lacks {names[1]}"):
        weights_folders(str(weights))
    (unet / names[1]).touch()
    assert weights_folders(str(weights))["unet"] == unet


@pytest.mark.parametrize(
    ("component", "values", "said"),
    [
        ("unet", {"addition_embed_type": "text_time"}, r"wants more than one text encoder gives \(text_time, as SDXL"),
        ("unet", {"encoder_hid_dim_type": "ip_image_proj"}, r"wants more than one text encoder gives \(ip_image_proj"),
        ("unet", {"_class_name": "FluxTransformer2DModel"}, "is a FluxTransformer2DModel, wanted a UNet2DCond"),
        ("controlnet", {"_class_name": "ControlNetUnionModel"}, "is a ControlNetUnionModel, wanted a ControlNetModel"),
        ("unet", {"in_channels": 9}, "takes 9 channels, but .*vae makes latents of 4: take a U-Net that paints from"),
        ("text_encoder", {"hidden_size": 1024}, "reads texts 64 wide, but .*text_encoder makes them 1024 wide"),
        (
            "controlnet",
            {"conditioning_channels": 3},
            r"nothing in it says in what colors .*: set generation.weights \{",
        ),
    ],
)
def test_networks_of_another_kind_are_refused(weights: Path, component: str, values: dict[str, Any], said: str) -> None:
    change(weights / component, **values)
    with pytest.raises(UserError, match=said) as caught:
        weights_folders(str(weights))
    assert "\n" not in str(caught.value)


def test_a_palette_for_one_hot_label_maps_is_refused(tiny_weights: Path) -> None:
    parts = GeneratorParts(prior=str(tiny_weights), controlnet=str(tiny_weights / "controlnet"), palette="ade20k")
    with pytest.raises(UserError, match="takes one-hot label maps, no pictures: leave generation.weights.palette out"):
        weights_folders(parts)


def test_a_table_names_every_class_once() -> None:
    lacking = {name: color for name, color in CITYSCAPES.items() if name != "rider"}
    for table, said in (
        (lacking, "palette lacks 'rider'"),
        (CITYSCAPES | {"tram": (1, 2, 3)}, "palette names 'tram'"),
        (CITYSCAPES | {"road": (0, 0, 256)}, "less than or equal to 255"),
    ):
        with pytest.raises(ValidationError, match=said):
            GeneratorParts.model_validate({"prior": "a", "controlnet": "b", "palette": table})


def test_the_colors_of_ade20k_are_those_of_its_classes() -> None:
    assert tuple(ADE20K) == CLASS_NAMES
    table = colors("ade20k")
    assert table is not None and table[255].tolist() == [0, 0, 0]
    assert table[CLASS_NAMES.index("car")].tolist() == [0, 102, 200]
    # where two classes share a color the ControlNet cannot tell them apart: these two pairs alone
    assert len({tuple(color) for color in ADE20K.values()}) == len(CLASS_NAMES) - 2


def test_a_controlnet_for_pictures_sees_the_palette(tiny_weights: Path, tmp_path: Path, scenes: list[Scene]) -> None:
    """The same colors by name and as a table give the same image; other colors another one, and another key."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = load_networks(str(tiny_weights), torch.device("cpu")).unet
        config = build_controlnet(unet, 3).config | {"conditioning_channels": 3}
        controlnet = ControlNetModel.from_config(config)
        for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(layer.weight, std=0.5)  # they start at zero, which would hide the condition
    controlnet.save_pretrained(tmp_path / "rgb")
    images, keys = [], []
    for palette in ("cityscapes", CITYSCAPES, "ade20k"):
        parts = GeneratorParts.model_validate(
            {"prior": str(tiny_weights), "controlnet": str(tmp_path / "rgb"), "palette": palette}
        )
        settings = GenerationConfig(weights=parts, size=(32, 64), steps=2, guidance=1.0)
        painter = Painter(settings, load_networks(parts, torch.device("cpu")))
        request = GenerationRequest("r", scenes[0].id, Box(0, 0, 32, 64), 0, "sunny", "sunny road", 0)
        images += [image for _, image, _ in painter.paint([request], LabelReader(scenes, None))]
        keys.append(weights_fingerprint(parts))
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])
    assert len(set(keys)) == 3
