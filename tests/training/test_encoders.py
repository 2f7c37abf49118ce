"""Encoders: published sizes, weights from folders and from the Hub's cache in its published layout, and what is said
when they are not there."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForImageClassification,
)
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from pipeline.config.experiment import load_config
from pipeline.config.training import NetworkConfig
from pipeline.errors import UserError
from training.encoders import build_encoder, encoder_config, pretrained_encoder, stages
from training.networks import Segmenter
from training.pretrained_encoders import check_pretrained

NAMES = {0: "ImageNet's first class", 1: "another"}
MIT = SegformerConfig(
    hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], id2label=NAMES
)
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[16, 16, 24, 32], depths=[1, 1, 1, 1], id2label=NAMES)


@pytest.fixture(params=["mit", "resnet"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    """A small ImageNet classifier as transformers publishes them, in a folder; and its encoder."""
    model = SegformerForImageClassification(MIT) if request.param == "mit" else ResNetForImageClassification(RESNET)
    for name, values in model.state_dict().items():  # unlike those of a new network, statistics included
        if values.is_floating_point():
            nn.init.uniform_(values, 0.5, 1) if name.endswith("running_var") else nn.init.normal_(values, std=0.1)
    model.save_pretrained(tmp_path / "published")
    encoder = model.base_model
    assert isinstance(encoder, PreTrainedModel)
    return encoder, tmp_path / "published"


@pytest.mark.parametrize(
    ("name", "millions"),
    [("b0", 3.4), ("b1", 13.1), ("b2", 24.2), ("b3", 44.0), ("b4", 60.8), ("b5", 81.4)],
)
def test_mit_has_the_published_number_of_parameters(name: str, millions: float) -> None:
    """SegFormer, table 1: parameters of the encoders."""
    config = NetworkConfig.model_validate({"pretrained": None, "encoder": f"mit-{name}"})
    with torch.device("meta"):
        encoder = build_encoder(encoder_config(config))
    assert sum(weight.numel() for weight in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_resnet_101_has_the_published_number_of_parameters() -> None:
    """44,549,160 with the ImageNet classifier of 2048 x 1000 + 1000."""
    with torch.device("meta"):
        encoder = build_encoder(encoder_config(NetworkConfig(pretrained=None, encoder="resnet-101")))
    assert sum(weight.numel() for weight in encoder.parameters()) == 44_549_160 - 2_049_000


def test_default_sizes_are_those_of_mit_b5() -> None:
    named = encoder_config(NetworkConfig(pretrained=None, encoder="mit-b5"))
    assert encoder_config(NetworkConfig(pretrained=None)) == named


def test_stages_have_strides_4_to_32(published: tuple[PreTrainedModel, Path]) -> None:
    encoder = pretrained_encoder(str(published[1]), 0.1)
    sizes = encoder.config.hidden_sizes
    shapes = [tuple(stage.shape) for stage in stages(encoder, torch.zeros(2, 3, 64, 96))]
    assert shapes == [(2, size, 64 // s, 96 // s) for size, s in zip(sizes, (4, 8, 16, 32), strict=True)]


def test_weights_are_taken_over(published: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    source, folder = published
    check_pretrained(NetworkConfig(pretrained=str(folder)))
    segmenter = Segmenter.create(NetworkConfig(pretrained=str(folder), channels=8), 0).eval()
    taken = segmenter.encoder.state_dict()
    assert all(torch.equal(weight, taken[name]) for name, weight in source.state_dict().items())
    segmenter.save_pretrained(tmp_path / "whole")
    loaded = Segmenter.from_pretrained(tmp_path / "whole", strict=True).eval()
    assert loaded.encoder.config.hidden_sizes == source.config.hidden_sizes
    assert "ImageNet's first" not in (tmp_path / "whole" / "config.json").read_text()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(image).logits, segmenter(image).logits)


def test_published_mit_layout_and_drop_path(tmp_path: Path) -> None:
    SegformerForImageClassification(MIT).save_pretrained(tmp_path)
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in load_file(tmp_path / "model.safetensors")
    encoder = pretrained_encoder(str(tmp_path), 0.3)
    rates = [drop.drop_prob for drop in encoder.modules() if isinstance(drop, SegformerDropPath)]
    assert rates == pytest.approx([0.1, 0.2, 0.3])  # rising from 0, where there is nothing to drop


def test_a_hub_name_resolves_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nvidia/mit-b0` and weights in PyTorch's own format, as the Hub holds them, without a network."""
    hub, commit = tmp_path / "hub", "0" * 40
    snapshot = hub / "models--nvidia--mit-b0" / "snapshots" / commit
    model = SegformerForImageClassification(MIT)
    model.save_pretrained(snapshot)
    torch.save(load_file(snapshot / "model.safetensors"), snapshot / "pytorch_model.bin")
    (snapshot / "model.safetensors").unlink()
    refs = hub / "models--nvidia--mit-b0" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    config = NetworkConfig(pretrained="nvidia/mit-b0", channels=8)
    check_pretrained(config)
    taken = Segmenter.create(config, 0).encoder.state_dict()
    assert all(torch.equal(weight, taken[name]) for name, weight in model.segformer.state_dict().items())


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("nvidia/mit-b5", "hf download nvidia/mit-b5 config.json"),
        ("no/such/place", "hf download no/such place/config.json"),
        ("/no/such/place", "correct the path"),
        ("not a name", "correct the path"),
    ],
)
def test_what_is_out_of_reach_is_one_line(
    name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for find in (check_pretrained, lambda config: Segmenter.create(config, 0)):
        with pytest.raises(UserError, match=advice) as caught:
            find(NetworkConfig(pretrained=name))
        assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_whole_is_named(published: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    folder = published[1]
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if not name.startswith("classifier") and name.endswith("weight"))
    save_file({name: weight for name, weight in weights.items() if name != lost}, folder / "model.safetensors")
    with pytest.raises(UserError, match="lacks 1 of the encoder's weights"):
        pretrained_encoder(str(folder), 0.1)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="lacks config.json or model.safetensors"):
        check_pretrained(NetworkConfig(pretrained=str(folder)))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a 'bert' model"):
        pretrained_encoder(str(tmp_path), 0.1)


def test_published_epsilons() -> None:
    """1e-6 for the norms of blocks and stages, torch's 1e-5 within patch embeddings and attention (mmseg's MiT)."""
    encoder = build_encoder(MIT.to_dict())
    epsilons = {name: norm.eps for name, norm in encoder.named_modules() if isinstance(norm, nn.LayerNorm)}
    inner = {name for name in epsilons if "patch_embeddings" in name or "sequence_reduction" in name}
    assert len(inner) == 4 + 3
    assert {name: 1e-5 if name in inner else 1e-6 for name in epsilons} == epsilons


def test_sizes_have_one_source() -> None:
    with pytest.raises(UserError, match="set 'pretrained' to null"):
        load_config("toy", ["training.network.pretrained=nvidia/mit-b5", "training.network.encoder=mit-b0"])
    random = ["training.network.pretrained=null", "training.network.encoder=mit-b0"]
    assert load_config("toy", random).training.network.encoder == "mit-b0"


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "zz", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}},
        {"auto_map": {"AutoConfig": "evil.Evil"}},
        {"model_type": "segformer", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}},
        {"model_type": "resnet", "auto_map": {"AutoModel": "other/repository--evil.Evil"}, "depths": "x"},
        {"model_type": None},
    ],
)
def test_code_of_a_folder_is_never_run(
    content: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case F03: transformers asked on the terminal, and `yes |` ran the folder's own code."""
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError) as caught:
        pretrained_encoder(str(tmp_path), 0.1)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert "trust_remote_code" not in capsys.readouterr().out
