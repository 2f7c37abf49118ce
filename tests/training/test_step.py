"""The pure training step: what it adds up, what it touches, and how it crops."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

from pipeline.config.training import Method, TrainingConfig
from pipeline.data.boundaries import boundary_band
from pipeline.data.resizing import cut
from pipeline.requests import Box
from training.data import Batch, TrainingSet
from training.draws import Draw
from training.hrda import draw_box
from training.losses import pixel_cross_entropy, uncertainty_weights
from training.networks import Segmenter, network_input
from training.pools import ImagePool
from training.state import StepState
from training.step import LossTerms, train_step


def _batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 19, (2, 4, 8), generator=random)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    labels[0, :3] = 255
    image = torch.randint(0, 256, (2, 3, 32, 64), generator=random, dtype=torch.uint8)
    return Batch(image, labels, torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0]] * 2))


def _step(segmenter: Segmenter, config: TrainingConfig, method: Method) -> tuple[LossTerms, StepState]:
    state = StepState.create(config, method, segmenter)
    return train_step(segmenter, _batch(), config, method, state, torch.Generator().manual_seed(0)), state


def test_plain_method_is_cross_entropy(tiny_config: TrainingConfig) -> None:
    segmenter, batch = Segmenter.create(tiny_config.network, 0).eval(), _batch()
    terms, state = _step(segmenter, tiny_config, Method())
    logits = segmenter(network_input(batch.image.float(), 1.0)).logits
    full = interpolate(logits, (32, 64), mode="bilinear", align_corners=False)
    wanted = cross_entropy(full, batch.label.long(), ignore_index=255)
    assert terms.total.item() == pytest.approx(wanted.item(), rel=1e-5)
    second = cross_entropy(full[1:], batch.label[1:].long())
    assert terms.per_image[1].item() == pytest.approx(second.item(), rel=1e-5)
    assert state.bank.counts.sum() == 0
    assert [term.item() for term in terms[2:5]] == [0, 0, 0]


def test_flex_seg_adds_half_of_gap_and_fills_the_bank(tiny_config: TrainingConfig) -> None:
    segmenter, batch = Segmenter.create(tiny_config.network, 0).eval(), _batch()
    plain, _ = _step(segmenter, tiny_config, Method())
    terms, state = _step(segmenter, tiny_config, Method(gap=True, ube=True))
    assert terms.total.item() == pytest.approx(terms.segmentation.item() + 0.5 * terms.gap.item())
    assert plain.segmentation < terms.segmentation < 4 * plain.segmentation
    assert terms.gap > 0
    present = torch.zeros(19, dtype=torch.bool)
    present[batch.label[batch.label != 255].long().unique()] = True
    assert torch.equal(state.bank.counts.sum(dim=1) > 0, present)
    terms.total.backward()
    assert all(weight.grad is not None for weight in segmenter.parameters())


def test_scale_enlarges_what_the_network_sees(tiny_config: TrainingConfig) -> None:
    assert network_input(torch.zeros(1, 3, 32, 64), 2.0).shape == (1, 3, 64, 128)
    segmenter = Segmenter.create(tiny_config.network, 0).eval()
    terms, _ = _step(segmenter, tiny_config.model_copy(update={"scale": 2.0}), Method(gap=True, ube=True))
    assert terms.total.isfinite()


def test_gap_takes_at_most_max_pixels(tiny_config: TrainingConfig) -> None:
    """With room for all cells the loss is their mean; with room for few it is another, of few."""
    segmenter = Segmenter.create(tiny_config.network, 0).eval()
    losses = []
    for limit in (4096, 100_000, 5):
        config = tiny_config.of(Method(training={"gap": {"max_pixels": limit}}))
        losses.append(_step(segmenter, config, Method(gap=True))[0].gap.item())
    assert losses[0] == losses[1] != losses[2]


def test_hrda_weighs_the_detail_crop(tiny_config: TrainingConfig) -> None:
    changes = {"network": {"hrda": {"detail_crop": [32, 64], "attention_channels": 8}}, "crop": [32, 64], "scale": 2}
    config = tiny_config.of(Method(training=changes))
    segmenter = Segmenter.create(config.network, 0).eval()
    terms, state = _step(segmenter, config, Method(gap=True, ube=True))
    box = draw_box((64, 128), (32, 64), torch.Generator().manual_seed(0))
    batch = _batch()
    prediction = segmenter(network_input(batch.image.float(), 2.0), box)
    assert prediction.detail is not None
    detail = interpolate(prediction.detail, (16, 32), mode="bilinear", align_corners=False)
    plain = cross_entropy(detail, batch.label[:, *box.at(0.5)].long(), ignore_index=255)
    fused = interpolate(prediction.logits, (32, 64), mode="bilinear", align_corners=False).log_softmax(dim=1)
    band = boundary_band(batch.label, 12)  # three cells of 8 px of the input
    weights = uncertainty_weights(fused, batch.label, band)
    ube = (weights * pixel_cross_entropy(fused, batch.label.long())).sum() / (batch.label != 255).sum()
    assert terms.segmentation.item() == pytest.approx(0.9 * ube.item() + 0.1 * plain.item(), rel=1e-5)
    assert state.bank.counts.sum() > 0
    terms.total.backward()
    assert all(weight.grad is not None for weight in segmenter.parameters())


class OneImage(ImagePool):
    """A pool whose image holds its own coordinates; a rare class sits in one corner."""

    def __len__(self) -> int:
        return 1

    def label(self, index: int) -> np.ndarray:
        rows, columns = np.indices((64, 128), dtype=np.uint8)
        return np.where((rows >= 48) & (columns >= 112), 7, 0).astype(np.uint8)

    def image(self, index: int, box: Box) -> np.ndarray:
        rows, columns = np.indices((64, 128), dtype=np.uint8)
        return cut(np.stack([rows, columns, self.label(index) * 10], axis=-1), box)


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
