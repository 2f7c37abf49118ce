"""Shapes, saving with a card, starting weights, parameter groups."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn

from pipeline.config.training import HrdaConfig, Method, OptimizerConfig, TrainingConfig
from training.networks import Segmenter
from training.optimization import build_optimizer, rate_factor


def test_logits_and_features_have_stride_4(tiny_config: TrainingConfig) -> None:
    segmenter = Segmenter.create(tiny_config.network, 0).eval()
    logits, features, detail = segmenter(torch.zeros(2, 3, 64, 96))
    assert logits.shape == (2, 19, 16, 24)
    assert features.shape == (2, 16, 16, 24)
    assert detail is None


@pytest.mark.parametrize("kind", ["mit", "resnet", "hrda"])
def test_saving_and_loading_keeps_every_bit(tiny_config: TrainingConfig, tmp_path: Path, kind: str) -> None:
    segmenter = Segmenter.create(tiny_config.network, 0).eval()
    if kind == "hrda":
        hrda = HrdaConfig(detail_crop=(32, 32), attention_channels=8)
        segmenter = Segmenter.create(tiny_config.network.model_copy(update={"hrda": hrda}), 0).eval()
    if kind == "resnet":
        encoder = {"model_type": "resnet", "hidden_sizes": [16, 16, 24, 32], "depths": [1] * 4, "embedding_size": 8}
        segmenter = Segmenter(encoder, channels=16).eval()
    segmenter.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors", "README.md"} == {path.name for path in tmp_path.iterdir()}
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loaded = Segmenter.from_pretrained(tmp_path, strict=True).eval()
    for saved, read in zip(segmenter(image)[:2], loaded(image)[:2], strict=True):
        assert torch.equal(saved, read)


def test_the_card_says_what_it_is(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    network = tiny_config.network.model_copy(update={"hrda": HrdaConfig(attention_channels=8)})
    segmenter = Segmenter.create(network, 0, scale=2.0)
    segmenter.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "flexseg")
    parameters = sum(weight.numel() for weight in segmenter.parameters())
    for part in (
        "segformer, depths [1, 1, 1, 1], channels [8, 8, 16, 16]",
        "DAFormer, 16 channels; HRDA, scales 0.5 and 1, detail windows of 512 x 512 px",
        "0 road, 1 sidewalk",
        "18 bicycle",
        "scale=2.0",
        f"{parameters:,}",
    ):
        assert part in card.text, part


def test_weights_depend_on_the_seed_alone(tiny_config: TrainingConfig) -> None:
    state = torch.get_rng_state()
    first, again, other = (Segmenter.create(tiny_config.network, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_parameter_groups(tiny_config: TrainingConfig) -> None:
    segmenter = Segmenter.create(tiny_config.network, 0)
    optimizer, _ = build_optimizer(segmenter, OptimizerConfig(learning_rate=1e-3, warmup=0), 10)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(group_of) == len(list(segmenter.parameters()))
    for module in segmenter.modules():
        for parameter in module.parameters(recurse=False):
            norm = isinstance(module, (nn.LayerNorm, nn.BatchNorm2d))
            assert group_of[id(parameter)]["weight_decay"] == (0.0 if norm else 0.01)
    assert group_of[id(segmenter.classifier.weight)]["lr"] == pytest.approx(1e-2)
    assert group_of[id(next(segmenter.encoder.parameters()))]["lr"] == pytest.approx(1e-3)


def test_schedule_of_the_paper() -> None:
    config = OptimizerConfig()
    assert rate_factor(0, 40_000, config) == pytest.approx(1e-6)
    assert rate_factor(750, 40_000, config) == pytest.approx(0.5 * (1 - 750 / 40_000), rel=1e-4)
    assert rate_factor(20_000, 40_000, config) == 0.5
    assert rate_factor(40_000, 40_000, config) == 0


def test_the_decoder_starts_as_released(tiny_config: TrainingConfig) -> None:
    """mmcv's rule by hand: deviation sqrt(2 / (outputs x kernel area)), also where one input feeds each output."""
    hrda = {"detail_crop": (32, 32), "attention_channels": 64}
    changes = {"network": {"channels": 64, "hrda": hrda, "decoder_init": "fan-out"}}
    network = tiny_config.of(Method(training=changes)).network
    segmenter = Segmenter.create(network, 0)
    seen = 0
    for part in (segmenter.decoder, segmenter.attention):
        for name, layer in part.named_modules():
            if isinstance(layer, torch.nn.Conv2d) and "embeddings" not in name and "classifier" not in name:
                area = layer.kernel_size[0] * layer.kernel_size[1]
                wanted = (2 / (layer.out_channels * area)) ** 0.5
                assert float(layer.weight.detach().std()) == pytest.approx(wanted, rel=0.1), name
                seen += 1
    assert seen == 9
    other = Segmenter.create(network.model_copy(update={"decoder_init": "fan-in"}), 0)
    pairs = zip(segmenter.encoder.parameters(), other.encoder.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
