"""The pure training step: what it adds up, what it touches, and how it crops."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

from pipeline.config.training import Method, TrainingConfig
from training.data import Batch, Draw, TrainingSet
from training.networks import Segmenter
from training.prototypes import PrototypeBank
from training.step import network_input, train_step


def _batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 19, (2, 4, 8), generator=random)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    labels[0, :3] = 255
    image = torch.randint(0, 256, (2, 3, 32, 64), generator=random, dtype=torch.uint8)
    return Batch(image, labels, torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0]] * 2))


def test_plain_method_is_cross_entropy(tiny_config: TrainingConfig) -> None:
    segmenter, bank, batch = Segmenter.create(tiny_config.network, 0).eval(), PrototypeBank(16), _batch()
    terms = train_step(segmenter, batch, tiny_config, Method(), bank, torch.Generator())
    logits, _ = segmenter(network_input(batch.image.float(), 1.0))
    full = interpolate(logits, (32, 64), mode="bilinear", align_corners=False)
    wanted = cross_entropy(full, batch.label.long(), ignore_index=255)
    assert terms.total.item() == pytest.approx(wanted.item(), rel=1e-5)
    second = cross_entropy(full[1:], batch.label[1:].long())
    assert terms.per_image[1].item() == pytest.approx(second.item(), rel=1e-5)
    assert bank.counts.sum() == 0


def test_flex_seg_adds_half_of_gap_and_fills_the_bank(tiny_config: TrainingConfig) -> None:
    segmenter, bank, batch = Segmenter.create(tiny_config.network, 0).eval(), PrototypeBank(16), _batch()
    plain = train_step(segmenter, batch, tiny_config, Method(), bank, torch.Generator())
    method = Method(gap=True, ube=True)
    terms = train_step(segmenter, batch, tiny_config, method, bank, torch.Generator())
    assert terms.total.item() == pytest.approx(terms.segmentation.item() + 0.5 * terms.gap.item())
    assert plain.segmentation < terms.segmentation < 4 * plain.segmentation
    assert terms.gap > 0
    present = torch.zeros(19, dtype=torch.bool)
    present[batch.label[batch.label != 255].long().unique()] = True
    assert torch.equal(bank.counts.sum(dim=1) > 0, present)
    terms.total.backward()
    assert all(weight.grad is not None for weight in segmenter.parameters())


def test_scale_enlarges_what_the_network_sees(tiny_config: TrainingConfig) -> None:
    assert network_input(torch.zeros(1, 3, 32, 64), 2.0).shape == (1, 3, 64, 128)
    segmenter, batch = Segmenter.create(tiny_config.network, 0).eval(), _batch()
    terms = train_step(
        segmenter, batch, tiny_config.model_copy(update={"scale": 2.0}), Method(gap=True, ube=True), PrototypeBank(16),
        torch.Generator(),
    )  # fmt: skip
    assert terms.total.isfinite()


class OneImage:
    """A pool whose image holds its own coordinates; a rare class sits in one corner."""

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.indices((64, 128), dtype=np.uint8)
        label = np.where((rows >= 48) & (columns >= 112), 7, 0).astype(np.uint8)
        return np.stack([rows, columns, label * 10], axis=-1), label


def test_crops_keep_image_and_label_together_and_flip_both(tiny_config: TrainingConfig) -> None:
    samples = TrainingSet([OneImage()], tiny_config, seed=0)
    flips, corners = set(), set()
    for iteration in range(40):
        image, label, _ = samples[Draw(0, 0, -1, iteration, 0)]
        assert image.shape == (3, 32, 32)
        assert torch.equal(image[2], label * 10)
        columns = image[1, 0].int()
        flips.add(int(columns[1] - columns[0]))
        corners.add((int(image[0, 0, 0]), int(columns.min())))
        again = samples[Draw(0, 0, -1, iteration, 0)]
        assert all(torch.equal(a, b) for a, b in zip((image, label), again, strict=False))
    assert flips == {1, -1}
    assert len(corners) > 30


def test_crops_look_for_the_wanted_class(tiny_config: TrainingConfig) -> None:
    samples = TrainingSet([OneImage()], tiny_config, seed=0)
    shares = [
        np.mean([(samples[Draw(0, 0, wanted, i, 0)].label == 7).sum() > 25 for i in range(100)]) for wanted in (-1, 7)
    ]
    assert shares[0] < 0.2
    assert shares[1] > 0.3
