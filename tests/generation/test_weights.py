"""The tiny generator's training, on miniature settings."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from torch import nn
from transformers import CLIPTokenizer

from generation.folders import LAYOUT, LAYOUT_VERSION
from generation.networks import build_scheduler, build_vae
from generation.weights import checkpoints, finetune, scratch
from generation.weights import loop as loop_module
from generation.weights.bank import Bank, CropSampler, captions, cut
from generation.weights.checkpoints import kept
from generation.weights.diffusion import area_weights, decode, encode, normalize_latents, sample
from generation.weights.finetune import CONTROLNET, SOURCE_UNET
from generation.weights.loop import CHECKPOINT, MicroBatch, learning_rate_factor, train_network
from generation.weights.ship import ship_weights
from generation.weights.train import train_from_scratch
from pipeline.config.experiment import load_config
from pipeline.config.machine import Machine
from pipeline.config.weights import PROMPT, NetworkTraining, VaeTraining, WeightsConfig
from pipeline.data.labels import CLASS_NAMES
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.toytown import WEATHERS
from tests.tiny import tiny_weights_training

CONFIG = tiny_weights_training(steps=2)
CPU = Machine(device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:  # one preview per training, of one denoising step
        patch.setattr(loop_module, "PREVIEWS", 1)
        for module in (scratch, finetune):
            patch.setattr(module, "sample", partial(sample, steps=1))
        train_from_scratch(CONFIG, folder, machine=CPU)
    return folder


def test_plain_diffusers_opens_and_runs_what_ships(trained: Path, tmp_path: Path) -> None:
    ship_weights(CONFIG, trained, tmp_path)
    assert not (tmp_path / SOURCE_UNET).exists()
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    before = StableDiffusionControlNetPipeline.from_pretrained(trained)
    for name in ("vae", "unet", "controlnet", "text_encoder"):
        trained_weights = getattr(before, name).state_dict()
        for key, value in getattr(pipeline, name).state_dict().items():
            torch.testing.assert_close(value, trained_weights[key], rtol=1e-3, atol=1e-4)
    pipeline.set_progress_bar_config(disable=True)
    prompt = PROMPT.format(classes="road, sky", weather="night")
    label = torch.zeros(1, 20, 16, 32)
    image = pipeline(prompt, label, height=16, width=32, num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (16, 32, 3)
    assert np.isfinite(image).all()
    for folder in (trained, tmp_path):
        assert json.loads((folder / "controlnet" / LAYOUT).read_text()) == {"layout_version": LAYOUT_VERSION}
    card = (tmp_path / "README.md").read_text()
    assert f"seed {CONFIG.seed}" in card
    assert "| controlnet | ControlNet, 19 classes + ignore, on the source U-Net | 2 | 2 |" in card


def test_a_finished_training_is_not_repeated(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    train_from_scratch(CONFIG, trained, machine=CPU)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_unfinished_training_does_not_ship(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished training"):
        ship_weights(CONFIG, tmp_path, tmp_path / "out")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    config = NetworkTraining(steps=4, batch_size=1, learning_rate=1e-3, checkpoint_every=2)

    def loss(network: nn.Module, batch: MicroBatch) -> torch.Tensor:
        return network(torch.ones(1, 1)).sum() * (float("nan") if batch.step == 3 else 1.0)

    with pytest.raises(UserError, match="the loss is nan at step 4; the checkpoint before it is kept: lower the"):
        train_network(network, iter, loss, config, tmp_path)
    checkpoint = kept(tmp_path / CHECKPOINT, "the training")
    assert checkpoint is not None and checkpoint.values["step"] == 2
    assert all(bool(value.isfinite().all()) for value in checkpoint.tensors.values())
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [2]


def test_a_checkpoint_survives_a_kill_during_its_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = NetworkTraining(steps=6, batch_size=1, learning_rate=1e-3, checkpoint_every=2)
    seen: list[int] = []

    def loss(network: nn.Module, batch: MicroBatch) -> torch.Tensor:
        seen.append(batch.step)
        return network(torch.ones(1, 1)).sum()

    def killed(path: Path, content: object) -> None:
        if json.loads(path.read_text())["values"]["step"] == 2:  # its tensors are written, and it is not yet
            raise KeyboardInterrupt
        write_json(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoints, "write_json", lambda path, content: (killed if path.exists() else write_json)(path, content)
        )
        with pytest.raises(KeyboardInterrupt):
            train_network(nn.Linear(1, 1), iter, loss, config, tmp_path)
    train_network(nn.Linear(1, 1), iter, loss, config, tmp_path)
    assert seen == [0, 1, 2, 3, 2, 3, 4, 5]
    tensors = json.loads((tmp_path / CHECKPOINT).read_text())["tensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CHECKPOINT, tensors, "log.jsonl"])


def test_learning_rate_warms_up_and_ends_near_zero() -> None:
    factors = [
        learning_rate_factor(step, NetworkTraining(steps=100, learning_rate=1.0, warmup=10)) for step in range(100)
    ]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(1)
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-3
    constant = NetworkTraining(steps=100, learning_rate=1.0, warmup=10, schedule="constant")
    assert [learning_rate_factor(step, constant) for step in (4, 10, 99)] == [0.5, 1, 1]


def test_each_word_of_a_prompt_is_one_token_of_its_own(trained: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(trained / "tokenizer")
    words = sorted({word for text in (*CLASS_NAMES, *WEATHERS, "city", "weather") for word in text.split()})
    ids = [tokenizer(word).input_ids for word in words]
    assert {len(each) for each in ids} == {3}  # start, the word, end
    assert len({each[1] for each in ids}) == len(words)
    longest = tokenizer(PROMPT.format(classes=", ".join(CLASS_NAMES), weather="night")).input_ids
    assert len(longest) <= tokenizer.model_max_length
    assert str(tokenizer.decode(longest, skip_special_tokens=True)).startswith("a city street scene with road")
    assert tokenizer.eos_token_id not in tokenizer("zebra é 7").input_ids[1:-1]  # unknown words are spelled, not lost


def test_last_timestep_holds_no_signal() -> None:
    scheduler = build_scheduler()
    clean, noise = torch.ones(1, 2, 3, 3), torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    last = torch.tensor([scheduler.config.num_train_timesteps - 1])
    torch.testing.assert_close(scheduler.add_noise(clean, noise, last), noise)
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == last


def test_normalizing_latents_keeps_the_reconstructions() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = build_vae(VaeTraining(steps=1, learning_rate=1.0, channels=(8, 8, 8), latent_channels=4)).eval()
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 32, 3), dtype=np.uint8)
    latents = encode(vae, images)
    before = decode(vae, torch.from_numpy(latents).permute(0, 3, 1, 2))
    normalize_latents(vae, latents)
    normalized = encode(vae, images)
    np.testing.assert_allclose(normalized.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normalized.std((0, 1, 2)), 1, atol=1e-4)
    after = decode(vae, torch.from_numpy(normalized).permute(0, 3, 1, 2))
    assert np.abs(before.astype(int) - after.astype(int)).max() <= 1


def test_rare_crops_hold_the_rare_class() -> None:
    labels = np.zeros((4, 32, 64), np.uint8)
    labels[:, :16] = 10
    labels[2, 31, 63] = 18  # one pixel of a bicycle in one corner
    bank = Bank(np.zeros((4, 32, 64, 3), np.uint8), labels, np.array(["sunny"] * 4))
    rng = np.random.default_rng(0)
    places = CropSampler(bank, (16, 32), 4, rare_share=1.0).draw(40, rng)
    crops = cut(labels, places, (16, 32), 4)
    assert all((crop == 18).any() for crop in crops)  # the two large classes have next to no chance at T = 0.01
    even = CropSampler(bank, (16, 32), 4, rare_share=0.0).draw(400, rng)
    assert {tuple(limit) for limit in (even.min(0), even.max(0))} == {(0, 0, 0), (3, 4, 8)}


def test_captions_name_the_classes_in_order_and_the_weather_unless_plain() -> None:
    labels = np.array([[[10, 0], [255, 0]], [[6, 6], [6, 6]]], np.uint8)
    assert captions(labels, [None, "night"]) == [
        "A city street scene with road, sky.",
        "A city street scene with traffic light, in night weather.",
    ]


def test_preset_states_what_ships() -> None:
    weights = load_config("toy-weights").weights
    assert weights is not None
    assert weights.crop == (64, 128)


def test_published_names_hold_what_the_generator_holds(trained: Path) -> None:
    files = [trained / name / "diffusion_pytorch_model.safetensors" for name in (CONTROLNET, "controlnet")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (trained / SOURCE_UNET / "config.json").is_file()


def wrong(**changes: object) -> WeightsConfig:
    return WeightsConfig.model_validate({**CONFIG.model_dump(), **changes})


def test_weights_sections_that_say_too_much_or_too_little() -> None:
    with pytest.raises(ValueError, match="multiple of 16 px"):
        wrong(crop=(24, 32))
    with pytest.raises(ValueError, match="give one of 'prior_from' .* and 'scratch'"):
        wrong(prior_from="toy-town")
    with pytest.raises(ValueError, match="give one of 'prior_from' .* and 'scratch'"):
        wrong(scratch=None)
    with pytest.raises(ValueError, match="'init_from' is what 'scratch' goes on from"):
        wrong(scratch=None, prior_from="toy-town", init_from="toy-town")
    with pytest.raises(ValueError, match="leave out 'height'"):
        wrong(source={**CONFIG.controlnet.model_dump(), "height": 32})
    with pytest.raises(ValueError, match="batch_size 3 does not divide into 2 equal parts"):
        wrong(controlnet={**CONFIG.controlnet.model_dump(), "batch_size": 3, "accumulation": 2})


def test_a_finished_set_is_gone_on_from(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a rate near zero leaves every network where the first set ended; the VAE keeps its bytes."""
    monkeypatch.setattr(loop_module, "PREVIEWS", 1)
    for module in (scratch, finetune):
        monkeypatch.setattr(module, "sample", partial(sample, steps=1))
    still = tiny_weights_training(steps=1, learning_rate=1e-12, ema=0.0).model_dump()
    config = WeightsConfig.model_validate({**still, "init_from": str(trained)})
    train_from_scratch(config, tmp_path / "further", machine=CPU)
    before, after = (StableDiffusionControlNetPipeline.from_pretrained(p) for p in (trained, tmp_path / "further"))
    for name in ("unet", "controlnet", "text_encoder"):
        first = getattr(before, name).state_dict()
        for key, value in getattr(after, name).state_dict().items():
            torch.testing.assert_close(value, first[key], rtol=0, atol=1e-6)
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (trained / vae).read_bytes() == (tmp_path / "further" / vae).read_bytes()
    ship_weights(config, tmp_path / "further", tmp_path / "shipped")
    card = (tmp_path / "shipped/README.md").read_text()
    assert f"onwards from the set '{trained}', whose VAE is kept" in card and "| vae |" not in card
    assert "_name_or_path" not in "".join(path.read_text() for path in (tmp_path / "shipped").rglob("*.json"))


def test_small_things_weigh_as_the_formula_says() -> None:
    labels = np.random.default_rng(0).choice([0, 10, 255], (2, 8, 12), p=[0.7, 0.2, 0.1]).astype(np.uint8)
    weights = area_weights(labels, (4, 3), 0.5)
    for k, label in enumerate(labels):
        expected = np.zeros((4, 3))
        for row in range(8):
            for column in range(12):
                share = (label == label[row, column]).mean()
                expected[row // 2, column // 4] += share**-0.5 / 8
        np.testing.assert_allclose(weights[k, 0], expected / expected.mean(), rtol=1e-5)
