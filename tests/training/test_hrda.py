"""HRDA: boxes and windows, the fusion's limits, and that both scales and the attention learn."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

from pipeline.config.machine import Machine
from pipeline.config.training import HrdaConfig, Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.errors import UserError
from tests.training.conftest import TINY
from training import networks
from training.hrda import CropBox, averaged, draw_box, fuse_detail, windows
from training.networks import Segmenter
from training.predict import predictor
from training.train import train

HRDA = HrdaConfig(detail_crop=(32, 48), attention_channels=8)


@pytest.fixture
def segmenter(tiny_config: TrainingConfig) -> Segmenter:
    """In eval mode, with statistics and class scores that no two places share."""
    small = {"hrda": HRDA, "reductions": (1, 1, 1, 1)}  # published reductions want 64 px and more
    made = Segmenter.create(tiny_config.network.model_copy(update=small), 0).eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(made.classifier.weight)
        torch.nn.init.normal_(made.attention.classifier.weight)
    return made


def picture(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (72, 200), (104, 136), (24, 200), (16, 16)])
def test_windows_cover_the_image_and_overlap_by_half(size: tuple[int, int]) -> None:
    counts = torch.zeros(size)
    boxes = windows(size, (32, 48))
    for box in boxes:
        counts[box.at(1)] += 1
        assert (box.bottom - box.top, box.right - box.left) == (min(32, size[0]), min(48, size[1]))
        assert box.top % 8 == box.left % 8 == 0
    assert counts.min() >= 1
    assert len(set(boxes)) == len(boxes)
    for starts, step in ((sorted({box.top for box in boxes}), 16), (sorted({box.left for box in boxes}), 24)):
        assert all(0 < after - before <= step for before, after in pairwise(starts))


def test_published_windows() -> None:
    """1024 px of context hold nine detail windows of 512; an image of 2048 x 1024 three contexts (HRDA's test)."""
    assert len(windows((1024, 1024), (512, 512))) == 9
    assert windows((1024, 2048), (1024, 1024)) == [CropBox(0, 1024, x, x + 1024) for x in (0, 512, 1024)]


def test_boxes_are_drawn_evenly_on_the_grid() -> None:
    random = torch.Generator().manual_seed(0)
    before = torch.get_rng_state()
    boxes = [draw_box((64, 48), (32, 32), random) for _ in range(600)]
    assert torch.equal(torch.get_rng_state(), before)
    found = {box: boxes.count(box) for box in set(boxes)}
    assert found.keys() == {
        CropBox(top, top + 32, left, left + 32) for top in range(0, 40, 8) for left in range(0, 24, 8)
    }
    assert min(found.values()) > 20  # 40 expected
    assert draw_box((32, 32), (32, 32), random) == CropBox(0, 32, 0, 32)


def test_overlaps_are_averaged() -> None:
    image = picture(72, 104)
    boxes = windows((72, 104), (32, 48))
    same = averaged(image, boxes, lambda crops: crops, stride=1, at_once=3)
    torch.testing.assert_close(same, image)
    order = iter(range(len(boxes)))  # each window answers with its own number
    numbered = averaged(image, boxes, lambda crops: crops[:, :1] * 0 + next(order), stride=1, at_once=1)
    holding = [index for index, box in enumerate(boxes) if box.top <= 40 < box.bottom and box.left <= 60 < box.right]
    assert len(holding) > 1
    assert float(numbered[0, 0, 40, 60]) == pytest.approx(sum(holding) / len(holding))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_fusion_mixes_inside_the_box_only(share: float) -> None:
    random = torch.Generator().manual_seed(0)
    context, attention = torch.randn(2, 5, 8, 12, generator=random), torch.full((2, 5, 8, 12), share)
    box = CropBox(16, 48, 24, 72)
    detail = torch.randn(2, 5, 8, 12, generator=random)
    fused = fuse_detail(context, detail, attention, box)
    doubled = interpolate(context, scale_factor=2, mode="bilinear", align_corners=False)
    rows, columns = slice(5, 11), slice(7, 17)  # one cell from the border, where a is interpolated between share and 0
    inner = detail[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(fused[:, :, rows, columns], (1 - share) * doubled[:, :, rows, columns] + share * inner)
    outside = torch.ones(16, 24, dtype=torch.bool)
    outside[3:13, 5:19] = False
    assert torch.equal(fused[:, :, outside], doubled[:, :, outside])


@pytest.mark.parametrize(("bias", "whole"), [(-1e4, False), (1e4, True)])
def test_limits_of_the_attention(segmenter: Segmenter, bias: float, whole: bool) -> None:
    """Attention 0 leaves the context alone, attention 1 the details."""
    torch.nn.init.zeros_(segmenter.attention.classifier.weight)
    torch.nn.init.constant_(segmenter.attention.classifier.get_parameter("bias"), bias)
    image = picture(32, 48)
    single = Segmenter(segmenter.encoder.config.to_dict(), channels=16).eval()
    single.load_state_dict({n: w for n, w in segmenter.state_dict().items() if not n.startswith("attention.")})
    with torch.inference_mode():
        fused = segmenter(image).logits
        if whole:
            torch.testing.assert_close(fused, single(image).logits)
        else:
            half = interpolate(image, scale_factor=0.5, mode="bilinear")
            torch.testing.assert_close(fused, interpolate(single(half).logits, scale_factor=2, mode="bilinear"))


def test_one_window_is_the_whole(segmenter: Segmenter) -> None:
    """An image of one detail window's size: prediction and training's pass are the same."""
    image = picture(32, 48)
    with torch.inference_mode():
        sliding, cropped = segmenter(image), segmenter(image, CropBox(0, 32, 0, 48))
    assert torch.equal(sliding.logits, cropped.logits)
    assert cropped.detail is not None
    assert cropped.detail.shape == (2, 19, 8, 12)
    assert sliding.features.shape == (2, 16, 4, 6)


def test_memory_bound_changes_nothing(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(72, 104)
    with torch.inference_mode():
        together = segmenter(image).logits
        monkeypatch.setattr(networks, "WINDOWS_AT_ONCE", 1)
        torch.testing.assert_close(segmenter(image).logits, together)


def test_everything_learns(segmenter: Segmenter) -> None:
    box = CropBox(8, 40, 16, 64)
    prediction = segmenter.train()(picture(64, 96), box)
    labels = torch.zeros(2, 16, 24, dtype=torch.long)
    assert prediction.detail is not None
    loss = cross_entropy(prediction.logits, labels) + cross_entropy(prediction.detail, labels[:, *box.at(1 / 4)])
    loss.backward()
    assert [name for name, weight in segmenter.named_parameters() if weight.grad is None] == []
    attention = segmenter.attention.classifier.weight.grad
    assert attention is not None
    assert attention.abs().sum() > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": (60, 64)},
        {"crop": (32, 32)},
        {"scale": 3.0},
        {"network": {**TINY["network"], "hrda": {"detail_crop": (30, 32)}}},
    ],
)
def test_sizes_that_do_not_align_are_refused(wrong: dict[str, object]) -> None:
    hrda = {"detail_crop": (32, 64)}
    right = {**TINY, "crop": (64, 64), "network": {**TINY["network"], "hrda": hrda}}
    TrainingConfig.model_validate(right)
    with pytest.raises((ValueError, UserError), match="multiple"):
        TrainingConfig.model_validate({**right, **wrong})


def test_hrda_trains_validates_and_predicts(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path
) -> None:
    small = {"hrda": HrdaConfig(detail_crop=(32, 32), attention_channels=8), "reductions": (1, 1, 1, 1)}
    changes = {"network": tiny_config.network.model_copy(update=small), "scale": 2.0, "iterations": 3}
    config = tiny_config.model_copy(update=changes)
    flex = Method(generated=True, gap=True, ube=True, has=True)
    train(config, flex, 0, scenes, [generated], tmp_path, machine=Machine(device="cpu"))
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["gap"] > 0 and 0 <= last["validation_miou"] <= 1
    predict = predictor(tmp_path / "segmenter", 2.0, "cpu")
    assert predict(np.zeros((30, 61, 3), np.uint8)).shape == (30, 61)
