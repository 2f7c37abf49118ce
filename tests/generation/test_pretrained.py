"""Generators put together from published parts: on disk, in the Hub's cache, or nowhere."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from safetensors.torch import load_file

from generation import palettes
from generation.crops import condition, one_hot
from generation.folders import NETWORK_FILES, prior_folders, weights_file, weights_fingerprint, weights_folders
from generation.models import GeneratorNetworks, load_networks
from pipeline.config.experiment import load_config
from pipeline.config.weights import GeneratorParts
from pipeline.errors import UserError
from tests.published import tiny_unet, write_dginstyle, write_prior

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PRIOR, DGINSTYLE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "yurujaja/DGInStyle"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_prior(folder / "prior")
    write_dginstyle(folder / "dginstyle")
    return folder


def parts(published: Path, **changes: str) -> GeneratorParts:
    places = {
        "prior": str(published / "prior"),
        "controlnet": str(published / "dginstyle/ControlNet_UNet-S"),
    }
    return GeneratorParts.model_validate(places | changes)


def assert_same_networks(one: GeneratorNetworks, other: GeneratorNetworks) -> None:
    for name in ("vae", "text_encoder", "unet", "controlnet"):
        ours, theirs = getattr(one, name).state_dict(), getattr(other, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_parts_give_the_generator_of_one_folder(published: Path, tmp_path: Path) -> None:
    composed = load_networks(parts(published), CPU)
    pipeline = StableDiffusionControlNetPipeline(
        **{name: getattr(composed, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "controlnet")},
        scheduler=composed.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(tmp_path)
    whole = load_networks(str(tmp_path), CPU)
    assert_same_networks(composed, whole)
    assert torch.equal(whole.scheduler.alphas_cumprod, composed.scheduler.alphas_cumprod)
    assert torch.equal(composed.embed(["road car"]), whole.embed(["road car"]))
    assert weights_fingerprint(parts(published)) != weights_fingerprint(str(tmp_path))  # it may have another scheduler


def test_parts_are_sampled_by_ddim_on_the_priors_noise_schedule(published: Path) -> None:
    scheduler = load_networks(parts(published), CPU).scheduler
    assert isinstance(scheduler, DDIMScheduler)
    expected = DDIMScheduler(  # what the released demo has
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, set_alpha_to_one=False, steps_offset=1,
        clip_sample=False,
    )  # fmt: skip
    torch.testing.assert_close(scheduler.alphas_cumprod, expected.alphas_cumprod)
    torch.testing.assert_close(scheduler.final_alpha_cumprod, expected.final_alpha_cumprod)
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[[0, -1]].tolist() == [951, 1]
    assert not scheduler.config.clip_sample


def test_the_source_unet_can_take_the_priors_place(published: Path) -> None:
    source = published / "dginstyle/U-Net-Source-Finetuned"
    networks = load_networks(parts(published, unet=str(source)), CPU)
    stored = load_file(source / NETWORK_FILES[0])
    assert all(torch.equal(networks.unet.state_dict()[key], value) for key, value in stored.items())
    assert weights_fingerprint(parts(published, unet=str(source))) != weights_fingerprint(parts(published))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"])
def test_other_kinds_of_weight_files_load(published: Path, tmp_path: Path, name: str) -> None:
    network = ControlNetModel.from_pretrained(published / "dginstyle/ControlNet_UNet-S")
    half = ".fp16." in name
    (network.half() if half else network).save_pretrained(
        tmp_path, safe_serialization=name.endswith("safetensors"), variant="fp16" if half else None
    )
    file = weights_file(tmp_path)
    assert file is not None and file.name == name
    loaded = load_networks(parts(published, controlnet=str(tmp_path)), CPU).controlnet
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key].float(), rtol=0, atol=0)


def cache(home: Path, repo: str, source: Path) -> None:
    """`source` as the Hub's client caches it: blobs named by their sha256, a snapshot of links, a ref."""
    repository = home / "hub" / f"models--{repo.replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True)
    for file in (path for path in source.rglob("*") if path.is_file()):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        link = repository / "snapshots" / COMMIT / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)


TRY = "try:\n    weights_folders(parts)\nexcept Exception as error:\n    print(type(error).__name__, error)"


def ask(home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process whose Hub cache lies under `home` (the client reads that once, on import)."""
    start = (
        "from generation.folders import *\n"
        "from pipeline.config.weights import GeneratorParts\n"
        f"parts = GeneratorParts(prior={PRIOR!r}, controlnet='{DGINSTYLE}/ControlNet_UNet-S')\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in {"HF_HUB_CACHE", "HF_TOKEN"}}
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", start + code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_the_hubs_cache_is_used_without_a_network(published: Path, tmp_path: Path) -> None:
    cache(tmp_path, PRIOR, published / "prior")
    cache(tmp_path, DGINSTYLE, published / "dginstyle")
    unet_of = f"parts.model_copy(update={{'unet': '{DGINSTYLE}@{COMMIT}/U-Net-Source-Finetuned'}})"
    done = ask(
        tmp_path,
        "import json\nprint(json.dumps([{k: str(v) for k, v in weights_folders(parts).items()},"
        f" weights_fingerprint(parts), str(weights_folders({unet_of})['unet'])]))",
    )
    assert done.returncode == 0, done.stderr
    folders, fingerprint, source = json.loads(done.stdout)
    snapshot = tmp_path / "hub/models--stable-diffusion-v1-5--stable-diffusion-v1-5/snapshots" / COMMIT
    dginstyle = tmp_path / "hub/models--yurujaja--DGInStyle/snapshots" / COMMIT
    assert folders == {
        **{name: str(snapshot / name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")},
        "controlnet": str(dginstyle / "ControlNet_UNet-S"),
    }
    assert source == str(dginstyle / "U-Net-Source-Finetuned")
    assert fingerprint == weights_fingerprint(parts(published))  # what counts is the bytes, wherever they are


def test_what_is_missing_is_one_line_that_says_what_to_fetch(published: Path, tmp_path: Path) -> None:
    cache(tmp_path, PRIOR, published / "prior")
    done = ask(tmp_path, TRY)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("UserError generation.weights.controlnet: yurujaja/DGInStyle/ControlNet_UNet-S is no folder")
    files = "ControlNet_UNet-S/config.json ControlNet_UNet-S/diffusion_pytorch_model.safetensors"
    assert f"'hf download yurujaja/DGInStyle {files} --local-dir DIR'" in line
    assert "HF_HUB_OFFLINE is set" in line
    assert line.endswith("set generation.weights.controlnet to DIR/ControlNet_UNet-S")


def test_a_cached_repository_that_lacks_a_file_is_not_taken(published: Path, tmp_path: Path) -> None:
    cache(tmp_path, PRIOR, published / "prior")
    cache(tmp_path, DGINSTYLE, published / "dginstyle")
    (next(tmp_path.rglob("snapshots/*/text_encoder")) / "model.safetensors").unlink()
    done = ask(tmp_path, TRY)
    assert done.stdout.startswith(f"UserError generation.weights.prior: {PRIOR} is no folder here"), done.stderr


def test_networks_that_do_not_fit_are_refused_before_they_are_loaded(published: Path, tmp_path: Path) -> None:
    def altered(name: str, **changes: object) -> str:
        folder = Path(shutil.copytree(published / "dginstyle/ControlNet_UNet-S", tmp_path / name))
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    with pytest.raises(UserError, match="its conditions have 4 channels, wanted 20"):
        weights_folders(parts(published, controlnet=altered("channels", conditioning_channels=4)))
    with pytest.raises(UserError, match=r"cross_attention_dim 768, but the U-Net in .* has 16"):
        weights_folders(parts(published, controlnet=altered("width", cross_attention_dim=768)))
    weights_folders(parts(published, controlnet=altered("colors", conditioning_channels=3), palette="cityscapes"))
    tiny_unet(width=32).save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match=r"cross_attention_dim 16, but the U-Net in .*wide has 32"):
        weights_folders(parts(published, unet=str(tmp_path / "wide")))


def test_folders_that_hold_something_else(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks vae, text_encoder, tokenizer, unet, scheduler"):
        prior_folders(str(published / "dginstyle"), "weights.prior_from")
    with pytest.raises(UserError, match=r"generation.weights.controlnet: .* holds no network"):
        weights_folders(parts(published, controlnet=str(published / "dginstyle")))
    with pytest.raises(UserError, match="neither a folder here nor a place on the Hugging Face Hub"):
        weights_folders(parts(published, controlnet=str(tmp_path / "nowhere")))


def test_conditions_of_other_controlnets_are_the_classes_colors() -> None:
    labels = np.array([[[0, 10], [255, 18]]], np.uint8)
    colors = condition(labels, 3, palettes.colors("cityscapes"))
    assert colors.shape == (1, 3, 2, 2) and colors.dtype == np.float32
    expected = np.array([[(128, 64, 128), (70, 130, 180)], [(0, 0, 0), (119, 11, 32)]]) / 255
    np.testing.assert_allclose(colors[0].transpose(1, 2, 0), expected, atol=1e-7)
    np.testing.assert_array_equal(condition(labels, 20), one_hot(labels))


def test_the_preset_names_the_published_parts() -> None:
    config = load_config("gta-dginstyle")
    assert config.generation is not None and isinstance(config.generation.weights, GeneratorParts)
    assert config.generation.weights == GeneratorParts(prior=PRIOR, controlnet=f"{DGINSTYLE}/ControlNet_UNet-S")
    assert sum(config.generation.counts.values()) == 7000
    assert config.weights is not None and config.weights.prior_from == PRIOR
    with pytest.raises(UserError, match="unknown key 'generation.weights.control'; did you mean 'controlnet'"):
        load_config("gta-dginstyle", ["generation.weights.control=x"])
