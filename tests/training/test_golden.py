"""FLEX-Seg's equations against an independent NumPy implementation (golden/flexseg.npz), float64 within 1e-6."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.boundaries import boundary_band, boundary_granularity
from pipeline.data.rare_classes import rare_class_probabilities
from training.draws import HardnessSampler, hardness_threshold
from training.losses import pixel_cross_entropy, prototype_losses, uncertainty_weights
from training.prototypes import PrototypeBank, boundary_groups


@pytest.fixture(scope="session")
def golden(golden: Path) -> Mapping[str, np.ndarray]:
    return dict(np.load(golden / "flexseg.npz"))


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())


def test_golden_granularity(golden: Mapping[str, np.ndarray]) -> None:
    labels = _tensor(golden["gap.label"])
    assert torch.equal(boundary_granularity(labels), _tensor(golden["gap.granularity"]))


def test_golden_prototypes_and_their_loss(golden: Mapping[str, np.ndarray]) -> None:
    labels, bank = _tensor(golden["gap.label"]), PrototypeBank(16).double()
    bank.load_state_dict({"prototypes": _tensor(golden["gap.bank"]), "counts": _tensor(golden["gap.counts"])})
    groups = boundary_groups(labels, boundary_granularity(labels), 3)
    kept = groups >= 0
    features = torch.nn.functional.normalize(_tensor(golden["gap.features"]).movedim(1, -1)[kept], dim=1)
    bank.update(features, groups[kept])
    torch.testing.assert_close(bank.prototypes, _tensor(golden["gap.new_bank"]), rtol=0, atol=1e-6)
    assert torch.equal(bank.counts, _tensor(golden["gap.new_counts"]))
    torch.testing.assert_close(bank.weights(), _tensor(golden["gap.weights"]), rtol=0, atol=1e-6)
    loss = prototype_losses(features, groups[kept], bank).mean()
    assert loss.item() == pytest.approx(golden["gap.loss"].item(), abs=1e-6)


def test_golden_uncertainty_boundary_emphasis(golden: Mapping[str, np.ndarray]) -> None:
    labels, log_probabilities = _tensor(golden["ube.label"]), _tensor(golden["ube.logits"]).log_softmax(dim=1)
    band = boundary_band(labels, 12)
    assert torch.equal(band, _tensor(golden["ube.boundary"]))
    weights = uncertainty_weights(log_probabilities, labels, band)
    torch.testing.assert_close(weights, _tensor(golden["ube.weights"]), rtol=0, atol=1e-6)
    loss = (weights * pixel_cross_entropy(log_probabilities, labels)).sum() / (labels != 255).sum()
    assert loss.item() == pytest.approx(golden["ube.loss"].item(), abs=1e-6)


def test_golden_hardness_sampling(golden: Mapping[str, np.ndarray]) -> None:
    thresholds = [hardness_threshold(float(t)) for t in golden["has.t"]]
    np.testing.assert_allclose(thresholds, golden["has.threshold"], rtol=0, atol=1e-6)
    sampler = HardnessSampler(len(golden["has.hardness"]))
    sampler.restore({"hardness": golden["has.hardness"], "counts": golden["has.seen"].astype(np.int64)})
    np.testing.assert_allclose(sampler.probabilities(), golden["has.probabilities"], rtol=0, atol=1e-6)


def test_golden_rare_class_probabilities(golden: Mapping[str, np.ndarray]) -> None:
    np.testing.assert_allclose(
        rare_class_probabilities(golden["rcs.pixels"]), golden["rcs.probabilities"], rtol=0, atol=1e-6
    )


def test_golden_boundary_error_band(golden: Mapping[str, np.ndarray]) -> None:
    labels, predictions = _tensor(golden["metrics.label"]), _tensor(golden["metrics.prediction"])
    band, wrong = boundary_band(labels, 5), predictions != labels
    interior = (labels != 255) & ~band
    assert wrong[band].double().mean().item() == pytest.approx(golden["metrics.boundary_error"].item(), abs=1e-6)
    assert wrong[interior].double().mean().item() == pytest.approx(golden["metrics.interior_error"].item(), abs=1e-6)
