"""Shapes, saving, starting weights, parameter groups, and DAFormer's own numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import interpolate
from transformers import SegformerConfig, SegformerModel

from pipeline.config.training import NetworkConfig, OptimizerConfig, TrainingConfig
from pipeline.errors import UserError
from training.networks import Segmenter
from training.optimization import build_optimizer, rate_factor


def test_logits_and_features_have_stride_4(tiny_config: TrainingConfig) -> None:
    segmenter = Segmenter.create(tiny_config.network, 0).eval()
    logits, features = segmenter(torch.zeros(2, 3, 64, 96))
    assert logits.shape == (2, 19, 16, 24)
    assert features.shape == (2, 16, 16, 24)


def test_saving_and_loading_keeps_every_output(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    segmenter = Segmenter.create(tiny_config.network, 0).eval()
    segmenter.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for saved, loaded in zip(segmenter(image), Segmenter.from_pretrained(tmp_path).eval()(image), strict=True):
        assert torch.equal(saved, loaded)


def test_weights_depend_on_the_seed_alone(tiny_config: TrainingConfig) -> None:
    state = torch.get_rng_state()
    first, again, other = (Segmenter.create(tiny_config.network, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_a_local_encoder_is_taken_over(tmp_path: Path) -> None:
    config = SegformerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2])
    encoder = SegformerModel(config)
    encoder.save_pretrained(tmp_path / "mit")
    segmenter = Segmenter.create(NetworkConfig(pretrained=str(tmp_path / "mit"), channels=8), 0)
    for name, weight in encoder.state_dict().items():
        assert torch.equal(weight, segmenter.encoder.state_dict()[name]), name
    segmenter.save_pretrained(tmp_path / "whole")
    loaded = Segmenter.from_pretrained(tmp_path / "whole")
    assert loaded.encoder.config.hidden_sizes == [8, 8, 16, 16]
    with pytest.raises(UserError, match="local folder or a Hub name"):
        Segmenter.create(NetworkConfig(pretrained=str(tmp_path / "nothing here")), 0)


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


STAGE_NAMES = {"attn.proj": "attention.o_proj", "attn.sr": "attention.sequence_reduction.sequence_reduction",
               "attn.norm": "attention.sequence_reduction.layer_norm", "attn.q": "attention.q_proj",
               "norm1": "layernorm_before", "norm2": "layernorm_after"}  # fmt: skip


def _encoder_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """mmsegmentation's names of a MiT -> transformers'."""
    renamed: dict[str, torch.Tensor] = {}
    for name, weight in state.items():
        _, part, *rest = name.split(".")
        stage, tail = f"encoder.stages.{int(part[-1]) - 1}", ".".join(rest)
        if part.startswith("block"):
            block, tail = tail.split(".", 1)
            stage = f"{stage}.blocks.{block}"
            if tail.startswith("attn.kv"):
                kind = tail.rsplit(".", 1)[1]
                keys, values = weight.chunk(2)
                renamed |= {f"{stage}.attention.k_proj.{kind}": keys, f"{stage}.attention.v_proj.{kind}": values}
                continue
            for theirs, ours in STAGE_NAMES.items():
                tail = ours + tail.removeprefix(theirs) if tail.startswith(theirs + ".") else tail
        elif part.startswith("patch_embed"):
            stage, tail = f"{stage}.patch_embeddings", tail.replace("norm.", "layer_norm.")
        else:
            stage = f"{stage}.layer_norm"
        renamed[f"{stage}.{tail}"] = weight
    return renamed


def _decoder_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, weight in state.items():
        ours = name.removeprefix("decode_head.").replace("conv_seg", "classifier").replace("fuse_layer.", "decoder.")
        ours = ours.replace("embed_layers", "decoder.embeddings").replace("proj.", "")
        ours = ours.replace("aspp_modules", "branches").replace("depthwise_conv", "0").replace("pointwise_conv", "1")
        ours = ours.replace(".conv.", ".0.").replace(".bn.", ".1.")
        linear = ".embeddings." in ours and ours.endswith("weight")
        renamed[ours] = weight[:, :, None, None] if linear else weight
    return renamed


def test_golden_daformer(golden: Path) -> None:
    state = load_file(golden / "daformer_mmseg.safetensors")
    reference = load_file(golden / "daformer_reference.safetensors")
    network = NetworkConfig(pretrained=None, hidden_sizes=(8, 16, 20, 32), depths=(1, 1, 2, 1), channels=16)
    segmenter = Segmenter.create(network, 0).eval()
    encoder = _encoder_weights({name: w for name, w in state.items() if name.startswith("backbone.")})
    decoder = _decoder_weights({name: w for name, w in state.items() if name.startswith("decode_head.")})
    segmenter.load_state_dict({**encoder, **decoder})
    with torch.inference_mode():
        logits, _ = segmenter(reference["input"])
        logits = interpolate(logits, reference["input"].shape[2:], mode="bilinear", align_corners=False)
        stages = segmenter.encoder(reference["input"], output_hidden_states=True).hidden_states
    for index, stage in enumerate(stages):
        _assert_close(stage, reference[f"feature.{index}"])
    _assert_close(logits, reference["logits"])


def _assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
