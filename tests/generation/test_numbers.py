"""Numbers that are none, tensors that are missing, prompts that are cut: said in one line, never painted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from generation.crops import LabelReader
from generation.folders import LAYOUT, LAYOUT_VERSION, weights_folders
from generation.models import NotFiniteError, load_networks
from generation.paint import Painter
from generation.prompts import check_prompts, fill_prompt, load_tokenizer, most_tokens
from generation.weights.diffusion import decode, encode
from pipeline.config.generation import GenerationConfig
from pipeline.data.datasets import Scene
from pipeline.data.labels import CLASS_NAMES
from pipeline.errors import UserError
from pipeline.requests import Box, GenerationRequest

CPU = torch.device("cpu")
NETWORKS = ("vae", "unet", "controlnet", "text_encoder")


def config(weights: Path, **changes: object) -> GenerationConfig:
    plain = {"weights": str(weights), "size": (32, 64), "steps": 2}
    return GenerationConfig.model_validate({**plain, **changes})


def requests(scenes: list[Scene], prompt: str = "road", condition: str = "sunny") -> list[GenerationRequest]:
    return [
        GenerationRequest(f"{condition}-{k:06d}", scenes[k].id, Box(0, 0, 32, 64), 0, condition, prompt, 0)
        for k in range(3)
    ]


@pytest.fixture
def copied(tiny_weights: Path, tmp_path: Path) -> Path:
    """Weights that a test may spoil."""
    return Path(shutil.copytree(tiny_weights, tmp_path / "spoiled"))


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def change_vae(folder: Path, **fields: object) -> None:
    file = folder / "vae/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def one_value(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[sorted(tensors)[0]].view(-1)[:1].fill_(value)


@pytest.mark.parametrize("changes", [{"guidance": 1e38}, {"guidance": 3e38, "scheduler": "unipc"}])
def test_guidance_without_bound_stops_the_shard(
    changes: dict[str, Any], tiny_weights: Path, scenes: list[Scene]
) -> None:
    """Case 04: black images were finished artifacts."""
    assert_refused(config(tiny_weights, **changes), tiny_weights, scenes, f"now {changes['guidance']:g}")


@pytest.mark.parametrize(
    ("name", "value"), [*((name, float("nan")) for name in NETWORKS), ("unet", float("inf")), ("vae", float("inf"))]
)
def test_weights_that_diverged_stop_the_shard(name: str, value: float, copied: Path, scenes: list[Scene]) -> None:
    """Case 04: one tensor holds NaN or infinity."""
    spoil(copied / name, lambda tensors: [tensor.fill_(value) for tensor in tensors.values()])
    assert_refused(config(copied), copied, scenes, "take other weights")


def test_a_second_pass_that_is_not_finite_stops_the_shard(tiny_weights: Path, scenes: list[Scene]) -> None:
    settings = config(tiny_weights, guidance=1e38, fusion={"stride": 8})
    assert_refused(settings, tiny_weights, scenes, "is not finite")


def assert_refused(settings: GenerationConfig, weights: Path, scenes: list[Scene], words: str) -> None:
    painter = Painter(settings, load_networks(str(weights), CPU))
    with pytest.raises(UserError) as caught:
        list(painter.paint(requests(scenes), LabelReader(scenes, None)))
    line = str(caught.value)
    assert "request sunny-000000 is not finite" in line and weights.name in line and words in line
    assert "lower generation.guidance" in line and "precision to fp32" in line and "\n" not in line


def test_the_image_that_is_not_finite_is_named(tiny_weights: Path) -> None:
    networks = load_networks(str(tiny_weights), CPU)
    latents = torch.zeros(3, 4, 8, 16)
    latents[1, 2, 3, 4] = float("nan")
    with pytest.raises(NotFiniteError) as caught:
        networks.decode(latents, first=10)
    assert caught.value.row == 11
    assert networks.decode(latents[:1]).dtype == torch.uint8


def test_an_image_of_one_colour_stops_the_shard(copied: Path, scenes: list[Scene]) -> None:
    spoil(copied / "vae", lambda tensors: [t.zero_() for name, t in tensors.items() if "decoder.conv_out" in name])
    painter = Painter(config(copied), load_networks(str(copied), CPU))
    with pytest.raises(UserError, match="paints for request sunny-000000 is of one colour"):
        next(painter.paint(requests(scenes), LabelReader(scenes, None)))


@pytest.mark.parametrize("scale", [float("nan"), 0, -1, float("inf"), "big", None, True])
def test_a_scaling_factor_that_is_none_is_refused(scale: object, copied: Path) -> None:
    """Case F11: NaN and 0 gave black images."""
    change_vae(copied, scaling_factor=scale)
    with pytest.raises(UserError, match=f"has a scaling_factor of {scale}, wanted a finite number above 0"):
        weights_folders(str(copied))


@pytest.mark.parametrize("shift", [float("nan"), float("-inf"), "big", True, [0.1]])
def test_a_shift_that_is_none_is_refused(shift: object, copied: Path) -> None:
    change_vae(copied, shift_factor=shift)
    with pytest.raises(UserError, match=r"has a shift_factor of .*, wanted a finite number or null"):
        weights_folders(str(copied))


def test_the_latents_of_a_vae_are_shifted_and_scaled(copied: Path) -> None:
    """As diffusers' pipelines do: (encoded - shift) * scale, and back."""
    plain = load_networks(str(copied), CPU)
    change_vae(copied, shift_factor=0.25, scaling_factor=0.5)
    shifted = load_networks(str(copied), CPU)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3)).astype(np.uint8)
    wanted = (plain.encode(images) - 0.25) * 0.5
    torch.testing.assert_close(shifted.encode(images), wanted)
    torch.testing.assert_close(torch.from_numpy(encode(shifted.vae, images)).permute(0, 3, 1, 2), wanted)
    latents = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    whole = plain.decode(latents)
    assert torch.equal(shifted.decode((latents - 0.25) * 0.5), whole)
    assert np.array_equal(decode(shifted.vae, (latents - 0.25) * 0.5), whole.numpy())


@pytest.mark.parametrize("steps", [0, -1, 10**9, "many", None, True, float("nan")])
def test_a_noise_schedule_of_no_length_or_without_bound_is_refused(steps: object, copied: Path) -> None:
    """0 steps were a traceback while painting, 10^9 filled the memory."""
    file = copied / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_train_timesteps": steps}))
    with pytest.raises(UserError, match=f"has num_train_timesteps of {steps}, wanted 1 to 100,000"):
        weights_folders(str(copied))


@pytest.mark.parametrize(("version", "way_out"), [(2, "install that flexseg or a newer one"), ("0", "train it again")])
def test_networks_of_another_layout_are_refused(version: object, way_out: str, copied: Path) -> None:
    """Those that are published have no version."""
    file = copied / "controlnet" / LAYOUT
    file.write_text(json.dumps({"layout_version": LAYOUT_VERSION}))
    assert weights_folders(str(copied))["controlnet"] == file.parent
    file.write_text(json.dumps({"layout_version": version}))
    with pytest.raises(
        UserError, match=rf"controlnet was trained by .*layout version {version!r}.* reads 1\): {way_out}"
    ):
        weights_folders(str(copied))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_lack_tensors_are_refused(name: str, copied: Path) -> None:
    """The libraries fill them with random numbers, and a log line says so."""
    lost: list[str] = []

    def lose(tensors: dict[str, torch.Tensor]) -> None:
        lost.extend(key for key in sorted(tensors) if key.endswith("weight"))
        del tensors[lost[-1]]

    spoil(copied / name, lose)
    with pytest.raises(UserError, match=f"lacks 1 of a .*'s tensors .*{lost[-1].rsplit('.', 2)[0]}") as caught:
        load_networks(str(copied), CPU)
    assert "\n" not in str(caught.value)


def test_many_missing_tensors_are_counted(copied: Path) -> None:
    spoil(copied / "unet", lambda tensors: [tensors.pop(name) for name in sorted(tensors)[:-1]])
    with pytest.raises(UserError, match=r"lacks \d+ of a UNet2DConditionModel's tensors \(.*, \.\.\.\)"):
        load_networks(str(copied), CPU)


LONG = (
    "A photograph from the windscreen of a car of a city street scene with {classes}, wide angle lens, sharp focus,"
    " high resolution, natural light, realistic materials, detailed facades, detailed asphalt, parked cars along both"
    " sides, trees between the houses, signs and poles beside the road, in snowy weather."
)


@pytest.mark.parametrize(
    ("key", "condition", "changes"),
    [
        ("generation.conditions.snowy", "snowy", {"conditions": {"snowy": LONG}}),
        ("generation.conditions.dusk", "dusk", {"conditions": {"dusk": LONG}}),
        ("generation.prompt", "night", {"prompt": LONG}),
        ("generation.plain_prompt", "plain", {"plain_prompt": LONG}),
    ],
)
def test_a_prompt_that_would_be_cut_is_said_with_what_is_lost(
    key: str, condition: str, changes: dict[str, Any], tiny_weights: Path, scenes: list[Scene]
) -> None:
    """Case 08: the weather at the end was lost, and the images were filed under it."""
    settings = config(tiny_weights, **changes)
    prompt = LONG.format(classes="road, sky")
    with pytest.raises(UserError) as caught:
        check_prompts(settings, requests(scenes, prompt, condition), weights_folders(str(tiny_weights)))
    line = str(caught.value)
    assert line.startswith(f"{key}: the prompt of request {condition}-000000 has ") and "sees 77" in line
    lost = line.split("so '")[1].split("...'", maxsplit=1)[0].removesuffix("'")
    assert lost and lost in prompt
    # what is left is as many tokens as fit, and one more would not
    tokenizer, cut = load_tokenizer(tiny_weights / "tokenizer"), prompt.index(lost)
    assert len(tokenizer(prompt[:cut]).input_ids) == 77 < len(tokenizer(prompt[: cut + 1]).input_ids)


def test_the_usual_prompts_fit(tiny_weights: Path, scenes: list[Scene]) -> None:
    labels = np.arange(19, dtype=np.uint8)[None].repeat(2, 0)
    longest = fill_prompt(config(tiny_weights).prompt, labels, ", ", "snowy")
    assert all(name in longest for name in CLASS_NAMES)
    check_prompts(config(tiny_weights), requests(scenes, longest, "snowy"), weights_folders(str(tiny_weights)))


def test_the_shorter_of_tokenizer_and_encoder_counts(copied: Path, scenes: list[Scene]) -> None:
    folders = weights_folders(str(copied))
    file = copied / "text_encoder/config.json"
    content = json.loads(file.read_text())
    tokenizer = load_tokenizer(folders["tokenizer"])
    assert most_tokens(folders, tokenizer) == 77
    file.write_text(json.dumps(content | {"max_position_embeddings": 8}))
    assert most_tokens(folders, tokenizer) == 8
    with pytest.raises(UserError, match="sees 8, so ' road'|sees 8, so 'road'"):
        check_prompts(config(copied), requests(scenes, "road road road road road road road"), folders)


def test_a_map_without_classes_has_a_prompt_too() -> None:
    ignored = np.full((2, 2), 255, np.uint8)
    assert fill_prompt("A {weather} scene with {classes}.", ignored, ", ", "snowy") == "A snowy scene with a street."
