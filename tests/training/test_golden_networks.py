"""The released DAFormer and HRDA: their checkpoints, loaded by `load_mmseg`, give their numbers."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, interpolate

from pipeline.data.labels import IGNORE
from pipeline.errors import UserError
from training.encoders import stages
from training.hrda import CropBox
from training.interop import load_mmseg
from training.networks import Segmenter


@pytest.fixture
def hrda(golden: Path) -> Segmenter:
    reference = load_file(golden / "hrda_reference.safetensors")
    top, bottom, left, right = reference["train.crop_box_y1y2x1x2"].tolist()
    return load_mmseg(golden / "hrda_mmseg.safetensors", detail_crop=(bottom - top, right - left))


@pytest.mark.parametrize("name", ["daformer", "hrda"])
def test_golden_features(golden: Path, name: str) -> None:
    reference = load_file(golden / f"{name}_reference.safetensors")
    segmenter = load_mmseg(golden / f"{name}_mmseg.safetensors")
    with torch.inference_mode():
        for index, stage in enumerate(stages(segmenter.encoder, reference["input"])):
            assert_close(stage, reference[f"feature.{index}"])


def test_golden_daformer_logits(golden: Path) -> None:
    reference = load_file(golden / "daformer_reference.safetensors")
    segmenter = load_mmseg(golden / "daformer_mmseg.safetensors")
    with torch.inference_mode():
        assert_logits(segmenter(reference["input"]).logits, reference)


def test_golden_hrda_logits(golden: Path, hrda: Segmenter) -> None:
    """With overlapping sliding detail windows."""
    reference = load_file(golden / "hrda_reference.safetensors")
    with torch.inference_mode():
        assert_logits(hrda(reference["input"]).logits, reference)


def test_golden_hrda_in_training(golden: Path, hrda: Segmenter) -> None:
    """With one detail crop. mmseg's losses are means over all pixels, the ignored ones included."""
    reference = load_file(golden / "hrda_reference.safetensors")
    box = CropBox(*reference["train.crop_box_y1y2x1x2"].tolist())
    with torch.inference_mode():
        logits, _, detail = hrda(reference["input"], box)
    assert detail is not None
    assert_close(logits, reference["train.fused"])
    assert_close(detail, reference["train.hr"])
    labels = reference["train.labels"][:, 0].long()
    fused_loss = cross_entropy(upsampled(logits, 4), labels, ignore_index=IGNORE, reduction="sum") / labels.numel()
    cut = labels[:, *box.at(1)]
    detail_loss = cross_entropy(upsampled(detail, 4), cut, ignore_index=IGNORE, reduction="sum") / cut.numel()
    torch.testing.assert_close(0.9 * fused_loss[None], reference["train.loss.loss_seg"], rtol=1e-5, atol=0)
    torch.testing.assert_close(0.1 * detail_loss[None], reference["train.loss.hr.loss_seg"], rtol=1e-5, atol=0)


def test_golden_hrda_context(golden: Path, hrda: Segmenter) -> None:
    """`train.lr` is the context's part of the fused prediction, before it is upsampled: (1 - attention) x logits."""
    reference = load_file(golden / "hrda_reference.safetensors")
    box = CropBox(*reference["train.crop_box_y1y2x1x2"].tolist())
    with torch.inference_mode():
        context = stages(hrda.encoder, interpolate(reference["input"], scale_factor=0.5, mode="bilinear"))
        share = 1 - hrda.attention(context)
        outside = torch.ones_like(share)
        outside[:, :, *box.at(1 / 8)] = share[:, :, *box.at(1 / 8)]
        assert_close(outside * hrda.classifier(hrda.decoder(context)), reference["train.lr"])


@pytest.mark.parametrize("teacher", [False, True])
def test_golden_checkpoints_of_domain_adaptation(golden: Path, tmp_path: Path, teacher: bool) -> None:
    """.pth as mmcv writes it, with meta data, student, teacher and the frozen ImageNet network in one file."""
    weights = load_file(golden / "daformer_mmseg.safetensors")
    students = {f"model.{name}": weight + teacher for name, weight in weights.items()}
    teachers = {f"ema_model.{name}": weight + (not teacher) for name, weight in weights.items()}
    other = {"imnet_model.backbone.patch_embed1.proj.weight": torch.zeros(8, 3, 7, 7)}
    held = {"meta": {"CLASSES": ("road",), "iter": 40_000}, "state_dict": {**other, **students, **teachers}}
    torch.save(held, tmp_path / "latest.pth")
    found = load_mmseg(tmp_path / "latest.pth", teacher=teacher).state_dict()
    wanted = load_mmseg(golden / "daformer_mmseg.safetensors").state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_golden_round_trip(golden: Path, tmp_path: Path, hrda: Segmenter) -> None:
    """A converted checkpoint gives the same bits from our own layout, odd epsilons and head counts included."""
    image = load_file(golden / "hrda_reference.safetensors")["input"][:1, :, :64, :96]
    odd = load_mmseg(golden / "daformer_mmseg.safetensors", heads=(2, 4, 4, 4), layer_norm_eps=1e-3)
    for name, segmenter in (("hrda", hrda), ("odd", odd)):
        segmenter.save_pretrained(tmp_path / name)
        loaded = Segmenter.from_pretrained(tmp_path / name, strict=True).eval()
        with torch.inference_mode():
            assert torch.equal(loaded(image).logits, segmenter(image).logits)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: weight * torch.nan, "numbers that are not finite"),
        (lambda weight: weight.to(torch.int64), "no floating-point numbers"),
    ],
)
def test_golden_checkpoints_that_nobody_can_mean(
    golden: Path, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    weights = load_file(golden / "daformer_mmseg.safetensors")
    name = "decode_head.conv_seg.weight"
    save_file({**weights, name: change(weights[name])}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=said):
        load_mmseg(tmp_path / "a.safetensors")
    save_file({**weights, f"module.{name}": weights[name] + 1}, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"holds weights twice, with and without 'module\.'"):
        load_mmseg(tmp_path / "b.safetensors")


def test_golden_wrong_checkpoints_are_one_line(golden: Path, tmp_path: Path) -> None:
    weights = load_file(golden / "daformer_mmseg.safetensors")
    file = tmp_path / "changed.safetensors"
    save_file({**weights, "neck.weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"unknown 1 weights \(neck.weight\)"):
        load_mmseg(file)
    save_file({name: weight for name, weight in weights.items() if "norm4" not in name}, file)
    with pytest.raises(UserError, match=r"lacks 2 weights \(encoder.stages.3.layer_norm.bias"):
        load_mmseg(file)
    save_file({**weights, "backbone.norm1.weight": torch.zeros(5)}, file)
    with pytest.raises(UserError, match=r"layer_norm.weight is \[5\], wanted \["):
        load_mmseg(file)
    save_file({"layer1.0.conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="lacks 7 weights"):
        load_mmseg(file)
    with pytest.raises(UserError, match="holds no teacher"):
        load_mmseg(golden / "daformer_mmseg.safetensors", teacher=True)


@pytest.mark.parametrize("prefix", ["module.", "module.model.", "model.module."])
def test_golden_prefixes_of_parallel_training_are_taken_off(golden: Path, tmp_path: Path, prefix: str) -> None:
    """Case 16, module.pth and best.pth: a DataParallel checkpoint, with mmcv's best score as a NumPy number."""
    weights = load_file(golden / "daformer_mmseg.safetensors")
    held = {"state_dict": {prefix + name: weight for name, weight in weights.items()}}
    torch.save({**held, "meta": {"hook_msgs": {"best_score": np.float64(0.68)}}}, tmp_path / "module.pth")
    found = load_mmseg(tmp_path / "module.pth").state_dict()
    wanted = load_mmseg(golden / "daformer_mmseg.safetensors").state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(weight, wanted[name]) for name, weight in found.items())


def test_golden_style_buffers_of_shade_are_left_out_and_named(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(golden / "daformer_mmseg.safetensors")
    styles = {f"backbone.style.{name}": torch.ones(4, 4) for name in ("proto_mean", "proto_std")}
    save_file({**weights, **styles}, tmp_path / "shade.safetensors")
    found = load_mmseg(tmp_path / "shade.safetensors").state_dict()
    said = capsys.readouterr().err
    assert "backbone.style.proto_mean, backbone.style.proto_std are left out" in said and said.count("\n") == 1
    wanted = load_mmseg(golden / "daformer_mmseg.safetensors").state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in found.items())
    assert capsys.readouterr().err == ""


def test_golden_a_small_file_may_not_ask_for_a_huge_network(golden: Path, tmp_path: Path) -> None:
    """What is built follows from names and shapes: a block number of a billion, a width that squares."""
    weights = load_file(golden / "daformer_mmseg.safetensors")
    block = {"backbone.block1.999999999.norm1.weight": torch.ones(1)}
    save_file({**weights, **block}, tmp_path / "deep.safetensors")
    with pytest.raises(UserError, match="block number 999999999, but has"):
        load_mmseg(tmp_path / "deep.safetensors")
    wide = {"backbone.patch_embed4.proj.weight": torch.ones(1_000_000, 1, 1, 1)}
    save_file({**weights, **wide}, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"wanted \["):
        load_mmseg(tmp_path / "wide.safetensors")


def upsampled(logits: torch.Tensor, factor: int) -> torch.Tensor:
    return interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)


def assert_logits(found: torch.Tensor, reference: Mapping[str, torch.Tensor]) -> None:
    """tests/golden holds the pixels of every `logits.stride`-th row and column, the full set all of them."""
    stride = int(reference.get("logits.stride", 1))
    assert_close(upsampled(found, 4)[..., ::stride, ::stride], reference["logits"])


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
