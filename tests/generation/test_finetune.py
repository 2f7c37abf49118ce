"""Fine-tuning of a published prior on a labeled data set: what moves, what stays, and how it resumes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import CLIPTextModel

from generation.folders import NETWORK_FILES, Folders, prior_folders, weights_folders
from generation.loading import load, load_scheduler
from generation.networks import build_controlnet
from generation.prompts import load_tokenizer
from generation.weights import finetune as finetune_module
from generation.weights import loop as loop_module
from generation.weights import train as train_module
from generation.weights.diffusion import Text, draw_noise, sample
from generation.weights.finetune import CONTROLNET, SOURCE_UNET, Examples, FineTuner, Prior
from generation.weights.loop import MicroBatch, Training
from generation.weights.output import initialization
from generation.weights.scenes import SceneWorld
from generation.weights.train import fine_tune
from pipeline.config.machine import Machine
from pipeline.config.weights import FineTuning, GeneratorParts, WeightsConfig
from pipeline.data.datasets import Scene
from pipeline.data.statistics import class_pixels
from pipeline.errors import UserError
from pipeline.seeding import derive_seed
from tests.published import write_dginstyle, write_gta, write_prior

ROOT = Path(__file__).parents[2]
CPU = Machine(device="cpu")
TUNING: dict[str, Any] = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3, "warmup": 0, "checkpoint_every": 2}


def config(**changes: Any) -> WeightsConfig:
    settings: dict[str, Any] = {
        "prior_from": "given", "crop": [32, 48], "prompt": "{classes}", "class_separator": " ",
        "source": {**TUNING, "rare_share": 0.0, "height": 32}, "controlnet": {**TUNING, "rare_share": 1.0},
    }  # fmt: skip
    return WeightsConfig.model_validate(settings | changes)


@pytest.fixture(scope="module", autouse=True)
def short_previews() -> Iterator[None]:
    """One preview per training, of one denoising step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "PREVIEWS", 1)
        patch.setattr(finetune_module, "sample", partial(sample, steps=1))
        yield


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return prior_folders(str(write_prior(tmp_path_factory.mktemp("prior"))), "weights.prior_from")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    return write_gta(tmp_path_factory.mktemp("gta"))


@pytest.fixture(scope="module")
def tuned(prior: Folders, scenes: list[Scene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    fine_tune(config(), prior, scenes, class_pixels(scenes), folder, machine=CPU)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / NETWORK_FILES[0])


def stored(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_trained_moves(
    prior: Folders, scenes: list[Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: stored(folder) for name, folder in prior.items()}
    loaded: list[tuple[Any, dict[str, torch.Tensor]]] = []

    def remember(kind: Any, folder: Path) -> Any:
        network = load(kind, folder)
        loaded.append((network, {key: value.clone() for key, value in network.state_dict().items()}))
        return network

    for module in (train_module, finetune_module):
        monkeypatch.setattr(module, "load", remember)
    fine_tune(config(), prior, scenes, class_pixels(scenes), tmp_path, machine=CPU)
    assert {name: stored(folder) for name, folder in prior.items()} == before
    moved = [(type(n).__name__, any(not torch.equal(n.state_dict()[k], v) for k, v in s.items())) for n, s in loaded]
    assert moved == [
        ("AutoencoderKL", False),
        ("CLIPTextModel", False),
        ("UNet2DConditionModel", True),  # the source U-Net, in its own training
        ("UNet2DConditionModel", False),  # the source U-Net, under the ControlNet
        ("UNet2DConditionModel", False),  # the prior's, in the preview
    ]
    with initialization(0, "controlnet"):
        start = build_controlnet(load(UNet2DConditionModel, tmp_path / SOURCE_UNET), image_levels=4).state_dict()
    end = weights(tmp_path / CONTROLNET)
    still = [key for key in start if torch.equal(start[key], end[key])]
    assert len(still) < len(start) / 4  # biases of what begins at zero may rest


def test_results_are_parts_of_a_generator(prior: Folders, tuned: Path) -> None:
    parts = GeneratorParts(
        prior=str(prior["unet"].parent), controlnet=str(tuned / CONTROLNET), unet=str(tuned / SOURCE_UNET)
    )
    assert weights_folders(parts)["unet"] == tuned / SOURCE_UNET
    controlnet = ControlNetModel.from_pretrained(tuned / CONTROLNET)  # as anyone loads the published one
    assert controlnet.config.conditioning_channels == 20
    assert tuple(controlnet.config.conditioning_embedding_out_channels) == (16, 32, 96, 256)
    assert Image.open(tuned / "training/controlnet/step-000004.png").size == (2 * 2 * 48, 2 * 6 * 32)


def stop_before(step: int) -> Callable[..., Iterator[Any]]:
    """A `Track` under which the ControlNet's training is killed."""

    def track(items: Any, /, *, total: int, description: str, done: int = 0, **options: object) -> Iterator[Any]:
        for item in items:
            if description == "Training controlnet" and item == step:
                raise KeyboardInterrupt
            yield item

    return track


def test_a_killed_training_ends_as_an_uninterrupted_one(
    prior: Folders, scenes: list[Scene], tuned: Path, tmp_path: Path
) -> None:
    pixels = class_pixels(scenes)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(config(), prior, scenes, pixels, tmp_path, machine=CPU, progress=stop_before(3))
    assert not (tmp_path / CONTROLNET).exists()
    fine_tune(config(), prior, scenes, pixels, tmp_path, machine=CPU)
    for name in (SOURCE_UNET, CONTROLNET):
        assert stored(tmp_path / name) == stored(tuned / name)
    for name in ("source", "controlnet"):
        logs = [(folder / "training" / name / "log.jsonl").read_text().splitlines() for folder in (tmp_path, tuned)]
        losses = [[(json.loads(line)["step"], json.loads(line)["loss"]) for line in log] for log in logs]
        assert losses[0] == losses[1]
        assert [step for step, _ in losses[0]] == [2, 4]
    with pytest.raises(UserError, match="training of another 'weights' section"):
        fine_tune(config(seed=1), prior, scenes, pixels, tmp_path, machine=CPU)


def test_loading_in_other_processes_changes_nothing(
    prior: Folders, scenes: list[Scene], tuned: Path, tmp_path: Path
) -> None:
    fine_tune(config(), prior, scenes, class_pixels(scenes), tmp_path, machine=Machine(device="cpu", loader_workers=2))
    assert stored(tmp_path / CONTROLNET) == stored(tuned / CONTROLNET)


def test_two_parts_have_the_gradients_of_one_batch(prior: Folders, scenes: list[Scene], tmp_path: Path) -> None:
    def gradients(accumulation: int) -> list[torch.Tensor]:
        tuning = FineTuning(**{**TUNING, "steps": 1, "accumulation": accumulation})
        tuner = tuner_of(prior, scenes, config(source=tuning), tmp_path)
        unet = load(UNet2DConditionModel, prior["unet"]).requires_grad_(True)
        training = Training(unet, tuning, tmp_path / "source", Accelerator(cpu=True))
        batches = list(training.micro_batches())
        assert len(batches) == accumulation
        seen: list[torch.Tensor] = []
        training.run.clip_grad_norm_ = lambda parameters, _: seen.extend(p.grad.clone() for p in parameters)
        text = tuner.prior.text.embed([""])

        def loss(network: Any, examples: Examples) -> torch.Tensor:
            return tuner.loss("source", tuning, network, examples, text.repeat(len(examples.latents), 1, 1))

        training.step(iter(tuner.world.examples("source", tuning, batches)), loss)
        return seen

    one, two = gradients(1), gradients(2)
    assert max(float(gradient.abs().max()) for gradient in one) > 1e-3
    for ours, expected in zip(two, one, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def tuner_of(prior: Folders, scenes: list[Scene], settings: WeightsConfig, folder: Path) -> FineTuner:
    text = Text(load_tokenizer(prior["tokenizer"]), load(CLIPTextModel, prior["text_encoder"]))
    vae = load(AutoencoderKL, prior["vae"])
    start = Prior(prior["unet"], vae, text, load_scheduler(prior["scheduler"], ddim=True), guidance=7.5)
    world = SceneWorld(settings, scenes, class_pixels(scenes), vae)
    return FineTuner(settings, start, world, folder, accelerator=partial(Accelerator, cpu=True))


def test_the_loss_is_that_of_the_usual_script(prior: Folders, scenes: list[Scene], tmp_path: Path) -> None:
    settings = config()
    tuner = tuner_of(prior, scenes, settings, tmp_path)
    (examples,) = tuner.world.examples("controlnet", settings.controlnet, [MicroBatch(0, slice(0, 2))])
    unet = load(UNet2DConditionModel, prior["unet"])
    text = tuner.prior.text.embed(["road sky"] * 2)
    ours = tuner.loss("controlnet", settings.controlnet, unet, examples, text)
    seed = derive_seed("weights", 0, "controlnet", "noise", 0)
    timesteps, noise = draw_noise(tuner.prior.scheduler, seed, examples.latents.shape)
    usual = DDPMScheduler.from_pretrained(prior["scheduler"])  # the class that diffusers' training scripts take
    noisy = usual.add_noise(examples.latents, noise, timesteps)
    torch.testing.assert_close(ours, F.mse_loss(unet(noisy, timesteps, text).sample, noise))


def test_training_lowers_the_loss_of_a_fixed_batch(prior: Folders, scenes: list[Scene], tmp_path: Path) -> None:
    tuning = FineTuning(**{**TUNING, "steps": 30, "learning_rate": 3e-3, "rare_share": 0.0, "height": 32})
    tuner = tuner_of(prior, scenes, config(source=tuning), tmp_path)
    fixed = list(tuner.world.examples("fixed", tuning, [MicroBatch(step, slice(0, 2)) for step in range(6)]))
    text = tuner.prior.text.embed([""]).repeat(2, 1, 1)

    @torch.no_grad()
    def mean_loss(unet: UNet2DConditionModel) -> float:
        return float(np.mean([tuner.loss("fixed", tuning, unet, batch, text) for batch in fixed]))

    before = mean_loss(load(UNet2DConditionModel, prior["unet"]))
    assert mean_loss(tuner.source_unet()) < 0.9 * before


def test_what_cannot_be_trained_is_said_first(prior: Folders, scenes: list[Scene], tmp_path: Path) -> None:
    pixels = class_pixels(scenes)
    with pytest.raises(UserError, match=r"weights.crop is \[24, 48\] px, wanted multiples of 16 px"):
        fine_tune(config(crop=[24, 48]), prior, scenes, pixels, tmp_path / "a", machine=CPU)
    with pytest.raises(UserError, match="is 51x32 px for weights.source, smaller than weights.crop of 48x48 px"):
        fine_tune(config(crop=[48, 48]), prior, scenes, pixels, tmp_path / "b", machine=CPU)
    with pytest.raises(UserError, match="none of the 4 label maps holds a class"):
        fine_tune(config(), prior, scenes, 0 * pixels, tmp_path / "c", machine=CPU)


def test_a_published_source_unet_is_not_trained_again(prior: Folders, scenes: list[Scene], tmp_path: Path) -> None:
    source = write_dginstyle(tmp_path / "published") / SOURCE_UNET
    fine_tune(config(source=str(source)), prior, scenes, class_pixels(scenes), tmp_path / "out", machine=CPU)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [CONTROLNET, "training"]


@pytest.mark.slow
@pytest.mark.parametrize("start", [["-m", "torch.distributed.run", "--nproc-per-node", "2"], []])
def test_two_processes_and_half_precision(
    prior: Folders, scenes: list[Scene], tuned: Path, tmp_path: Path, start: list[str]
) -> None:
    """Two processes end near where one does; one process in bf16 trains too."""
    script = tmp_path / "script.py"
    settings = config() if start else config(precision="bf16")
    script.write_text(
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from generation.folders import prior_folders\n"
        "from generation.weights import finetune, loop\n"
        "from generation.weights.train import fine_tune\n"
        "from pipeline.config.data import Dataset\n"
        "from pipeline.config.machine import Machine\n"
        "from pipeline.config.weights import WeightsConfig\n"
        "from pipeline.data.datasets import find_scenes\n"
        "from pipeline.data.statistics import class_pixels\n"
        f"scenes = find_scenes(Dataset(name='gta', root='{scenes[0].label.parents[1]}', layout='gta'))\n"
        f"config = WeightsConfig.model_validate_json({settings.model_dump_json()!r})\n"
        f"prior = prior_folders('{prior['unet'].parent}', '')\n"
        "loop.PREVIEWS, finetune.sample = 1, partial(finetune.sample, steps=1)\n"
        f"out, machine = Path('{tmp_path}/out'), Machine(device='cpu')\n"
        "fine_tune(config, prior, scenes, class_pixels(scenes), out, machine=machine)\n"
    )
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *start, str(script)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("source", "controlnet"):
        losses = [
            [json.loads(line)["loss"] for line in (folder / "training" / name / "log.jsonl").read_text().splitlines()]
            for folder in (tmp_path / "out", tuned)
        ]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4 if start else 0.05)
    assert (weights(tmp_path / "out" / CONTROLNET).keys()) == weights(tuned / CONTROLNET).keys()
