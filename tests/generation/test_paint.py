"""Options of the painter: each does what it says on the tiny generator, and wrong ones end in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from generation.denoise import denoise
from generation.lora import lora_file, lora_fingerprint, merge_lora
from generation.models import GeneratorNetworks, load_networks
from generation.paint import Painter
from generation.schedulers import starting_noise
from pipeline.config.generation import GenerationConfig
from pipeline.config.machine import Machine
from pipeline.errors import UserError

LABELS = np.full((2, 32, 64), 10, np.uint8)
LABELS[:, 16:] = 0
LABELS[:, 8:24, 10:20] = 13
PROMPTS, SEEDS = ["sunny road", "night, sky"], [8, 9]


def config(weights: Path, **changes: object) -> GenerationConfig:
    plain = {"weights": str(weights), "size": (32, 64), "steps": 4, "guidance": 3.0}
    return GenerationConfig.model_validate({**plain, **changes})


def load(weights: Path) -> GeneratorNetworks:
    return load_networks(str(weights), torch.device("cpu"))


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> GeneratorNetworks:
    return load(tiny_weights)


def painted(networks: GeneratorNetworks, settings: GenerationConfig) -> np.ndarray:
    return Painter(settings, networks).images(LABELS, PROMPTS, SEEDS).astype(int)


def latents(networks: GeneratorNetworks, settings: GenerationConfig, images: int = 2) -> Tensor:
    text = torch.stack([networks.embed([""] * images), networks.embed(PROMPTS[:images])])
    noise = starting_noise(SEEDS[:images], (4, 8, 16))
    return denoise(networks, noise, networks.condition(LABELS[:images]), text, settings)


@pytest.mark.parametrize("name", ["ddim", "unipc", "dpm-solver", "lcm"])
def test_other_schedulers_are_the_requests_own(tiny: GeneratorNetworks, tiny_weights: Path, name: str) -> None:
    settings = config(tiny_weights, scheduler=name)
    both = painted(tiny, settings)
    alone = Painter(settings, tiny).images(LABELS[1:], PROMPTS[1:], SEEDS[1:])[0].astype(int)
    assert np.abs(both[1] - alone).max() <= 1
    same = np.array_equal(both, painted(tiny, config(tiny_weights)))
    assert same == (name == "ddim")  # which is what these weights have


def test_fast_solvers_need_fewer_steps(tiny: GeneratorNetworks, tiny_weights: Path) -> None:
    def at(name: str, steps: int) -> Tensor:
        return latents(tiny, config(tiny_weights, scheduler=name, steps=steps, guidance=1.0), images=1)

    exact, slow = at("ddim", 100), at("ddim", 12)
    for name in ("unipc", "dpm-solver"):
        assert (at(name, 12) - exact).abs().mean() < 0.5 * (slow - exact).abs().mean()


def test_a_guidance_of_one_is_the_prompted_half_alone(tiny: GeneratorNetworks, tiny_weights: Path) -> None:
    samples = []
    hook = tiny.unet.conv_in.register_forward_pre_hook(lambda _, given: samples.append(len(given[0])))
    one = latents(tiny, config(tiny_weights, guidance=1.0))
    nearly = latents(tiny, config(tiny_weights, guidance=1.000001))
    hook.remove()
    assert samples == [2] * 4 + [4] * 4
    torch.testing.assert_close(one, nearly, rtol=1e-3, atol=1e-3)


def test_half_precision_is_close(tiny_weights: Path) -> None:
    exact, half = (painted(load(tiny_weights), config(tiny_weights, precision=name)) for name in ("fp32", "bf16"))
    assert 0 < np.abs(exact - half).mean() < 4


def test_tf32_is_asked_of_a_gpu_and_changes_nothing_on_a_cpu(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, bool]] = []

    def note(device: torch.device, precision: str, *, autotune: bool) -> None:
        asked.append((device.type, precision, autotune))

    monkeypatch.setattr("generation.paint.set_up_gpu", note)
    exact, same = (painted(load(tiny_weights), config(tiny_weights, precision=name)) for name in ("fp32", "tf32"))
    assert np.array_equal(exact, same)
    assert asked == [("cpu", "fp32", True), ("cpu", "tf32", True)]


@pytest.mark.slow
def test_compiled_networks_paint_the_same_and_are_compiled_once(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_module = torch.nn.Module.compile
    # the graphs are captured and guarded as ever; making machine code of them would take minutes
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_module(module, backend="eager"))
    exact = painted(load(tiny_weights), config(tiny_weights, steps=2))
    painter = Painter(config(tiny_weights, steps=2), load(tiny_weights), Machine(compile_generator=True))
    first = painter.images(LABELS, PROMPTS, SEEDS).astype(int)
    assert np.abs(first - exact).max() <= 1
    with torch._dynamo.config.patch(error_on_recompile=True):
        np.testing.assert_array_equal(painter.images(LABELS, PROMPTS, SEEDS), first)


@pytest.fixture(scope="module")
def lora(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GeneratorNetworks]:
    """A folder with a LoRA of random weights, and a generator that carries it as an adapter."""
    networks = load(tiny_weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "conv1"]))
        for name, weight in networks.unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
    folder = tmp_path_factory.mktemp("lora")
    layers = get_peft_model_state_dict(networks.unet)
    StableDiffusionControlNetPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder, networks


def test_a_lora_is_merged(lora: tuple[Path, GeneratorNetworks], tiny: GeneratorNetworks, tiny_weights: Path) -> None:
    folder, with_adapter = lora
    settings = config(tiny_weights)
    merged = load(tiny_weights)
    merge_lora(merged.unet, str(folder), 1.0)
    torch.testing.assert_close(latents(merged, settings), latents(with_adapter, settings), rtol=1e-3, atol=1e-3)
    assert [name for name, _ in merged.unet.named_parameters()] == [name for name, _ in tiny.unet.named_parameters()]
    plain = painted(tiny, settings)
    assert np.array_equal(painted(load(tiny_weights), config(tiny_weights, lora=str(folder), lora_scale=0.0)), plain)
    assert not np.array_equal(painted(load(tiny_weights), config(tiny_weights, lora=str(folder))), plain)


def test_a_loras_file_is_part_of_the_key(lora: tuple[Path, GeneratorNetworks], tmp_path: Path) -> None:
    file = lora_file(str(lora[0]))
    other = tmp_path / "other.safetensors"
    other.write_bytes(file.read_bytes())
    assert lora_fingerprint(str(other)) == lora_fingerprint(str(lora[0]))
    other.write_bytes(file.read_bytes()[:-1] + b"x")
    assert lora_fingerprint(str(other)) != lora_fingerprint(str(lora[0]))


def test_loras_that_cannot_be_used_are_one_line(tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder with 0 safetensors files"):
        lora_file(str(tmp_path))
    with pytest.raises(UserError, match="neither a folder here nor a place on the Hugging Face Hub"):
        lora_file("nowhere")
    with pytest.raises(UserError, match=r"hf download nobody/nothing-of-the-kind pytorch_lora_weights\.safetensors"):
        lora_file("nobody/nothing-of-the-kind")
    with pytest.raises(UserError, match=r"hf download nobody/nothing x/some\.safetensors"):
        lora_file("nobody/nothing/x/some.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    with pytest.raises(UserError, match="is no safetensors file"):
        Painter(config(tiny_weights, lora=str(broken)), load(tiny_weights))


def other_lora(lora: tuple[Path, GeneratorNetworks], file: Path, rename: Callable[[str], str]) -> str:
    """A copy of the LoRA whose tensors are named anew; those that get no name are left out."""
    tensors = load_file(next(lora[0].glob("*.safetensors")))
    named = {rename(name): value for name, value in tensors.items()}
    save_file({name: value for name, value in named.items() if name}, file)
    return str(file)


@pytest.mark.parametrize(
    ("name", "rename", "message"),
    [
        ("no tensors", lambda _: "", "holds no tensors, so it would change nothing"),
        ("a text encoder's", lambda name: name.replace("unet.", "text_encoder."), "has no layer of the U-Net"),
        ("another U-Net's", lambda name: name.replace("unet.", "unet.inner."), "has no layer of the U-Net"),
        ("another model's", lambda name: name.replace("unet.", "transformer."), "has no layer of the U-Net"),
    ],
)
def test_a_lora_that_changes_nothing_is_refused(
    name: str,
    rename: Callable[[str], str],
    message: str,
    lora: tuple[Path, GeneratorNetworks],
    tiny_weights: Path,
    tmp_path: Path,
) -> None:
    """Case F11: the images were those without a LoRA, and the key said that one was used."""
    file = other_lora(lora, tmp_path / f"{name}.safetensors", rename)
    networks = load(tiny_weights)
    before = {key: value.clone() for key, value in networks.unet.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        merge_lora(networks.unet, file, 1.0)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in networks.unet.state_dict().items())


def test_what_of_a_lora_has_no_place_is_named(
    lora: tuple[Path, GeneratorNetworks], tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = other_lora(lora, tmp_path / "half.safetensors", lambda name: name.replace("unet.up_", "unet.upper_"))
    networks = load(tiny_weights)
    before = {key: value.clone() for key, value in networks.unet.state_dict().items()}
    merge_lora(networks.unet, file, 1.0)
    assert any(not torch.equal(value, before[key]) for key, value in networks.unet.state_dict().items())
    assert "layers are not the U-Net's and are left out (unet.upper_blocks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (30, 60)}, "multiples of 8 px"),
        ({"fusion": {"stride": 9}}, "stride is 9 cells, wanted at most the window's 8"),
        ({"fusion": {"stride": 4, "window": (7, 16)}}, "wanted multiples of 2: round both sides"),
    ],
)
def test_sizes_that_the_networks_cannot_see(
    tiny: GeneratorNetworks, tiny_weights: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Painter(config(tiny_weights, **changes), tiny)


def test_options_that_exclude_each_other_or_are_gone(tiny_weights: Path) -> None:
    with pytest.raises(ValidationError, match="feature_cache is no option any more"):
        config(tiny_weights, feature_cache=2)
    with pytest.raises(ValidationError, match="defined for ddim alone"):
        config(tiny_weights, scheduler="unipc", fusion={"kept_noise": "released"})
