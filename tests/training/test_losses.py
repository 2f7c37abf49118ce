"""What the golden numbers do not show: gradients, empty batches, even draws, several ranks."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed
from torch.nn.functional import normalize

from training.losses import pixel_entropy, prototype_losses, uncertainty_weights
from training.prototypes import PrototypeBank, even_subset


def _random_features(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    features = normalize(torch.randn(count, 8, generator=random, dtype=torch.float64), dim=1)
    return features, torch.randint(0, 57, (count,), generator=random)


def test_first_sighting_copies_the_mean_and_later_ones_move_by_momentum() -> None:
    bank = PrototypeBank(2, momentum=0.75).double()
    groups = torch.tensor([4, 4])
    bank.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64), groups)
    first = torch.tensor([0.5, 0.5], dtype=torch.float64) / np.sqrt(0.5)
    torch.testing.assert_close(bank.prototypes[1, 1], first)
    bank.update(torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64), groups)
    moved = 0.75 * first + 0.25 * torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(bank.prototypes[1, 1], moved / moved.norm())
    assert bank.counts.sum() == bank.counts[1, 1] == 2


def test_gradient_reaches_features_but_not_prototypes() -> None:
    features, groups = _random_features(40)
    bank = PrototypeBank(8).double()
    bank.update(features, groups)
    features.requires_grad_()
    prototype_losses(features, groups, bank).mean().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    assert not bank.prototypes.requires_grad


def test_a_batch_without_boundary_gives_zero_loss_and_gradient() -> None:
    bank = PrototypeBank(8)
    features = torch.zeros(0, 8, requires_grad=True)
    groups = torch.zeros(0, dtype=torch.int64)
    bank.update(features, groups)
    loss = prototype_losses(features, groups, bank).sum()
    loss.backward()
    assert loss.item() == 0
    assert bank.counts.sum() == 0


def test_entropy_is_that_of_scipy() -> None:
    log_probabilities = torch.randn(2, 19, 5, 6, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    wanted = scipy.stats.entropy(log_probabilities.exp().numpy(), axis=1)
    np.testing.assert_allclose(pixel_entropy(log_probabilities).numpy(), wanted, rtol=1e-5)


def test_uncertainty_weights_carry_no_gradient_and_keep_empty_bands_at_one() -> None:
    log_probabilities = torch.randn(1, 19, 6, 6, requires_grad=True).log_softmax(dim=1)
    labels = torch.zeros(1, 6, 6, dtype=torch.int64)
    weights = uncertainty_weights(log_probabilities, labels, torch.zeros(1, 6, 6, dtype=torch.bool))
    assert not weights.requires_grad
    assert torch.equal(weights, torch.ones(1, 6, 6))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), ignored=st.floats(0, 1), banded=st.floats(0, 1))
def test_uncertainty_weights_lie_in_their_bounds_and_follow_the_entropy(
    seed: int, ignored: float, banded: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    log_probabilities = (3 * torch.randn(2, 19, 8, 9, generator=random)).log_softmax(dim=1)
    labels = torch.randint(0, 19, (2, 8, 9), generator=random)
    labels[torch.rand(labels.shape, generator=random) < ignored] = 255
    band = (torch.rand(labels.shape, generator=random) < banded) & (labels != 255)
    weights = uncertainty_weights(log_probabilities, labels, band)
    assert (weights[labels == 255] == 0).all()
    assert (weights[(labels != 255) & ~band] == 1).all()
    assert ((weights[band] >= 1) & (weights[band] <= 4)).all()
    entropy = pixel_entropy(log_probabilities)
    for image in range(2):
        inside = weights[image][band[image]]
        assert (inside[entropy[image][band[image]].argsort()].diff() >= -1e-6).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), batches=st.integers(1, 4))
def test_prototypes_stay_unit_vectors_and_do_not_depend_on_the_order_of_pixels(seed: int, batches: int) -> None:
    one, other = PrototypeBank(8).double(), PrototypeBank(8).double()
    for batch in range(batches):
        features, groups = _random_features(50, seed + batch)
        one.update(features, groups)
        other.update(features.flip(0), groups.flip(0))
    torch.testing.assert_close(one.prototypes, other.prototypes)
    seen = one.counts > 0
    torch.testing.assert_close(one.prototypes[seen].norm(dim=1), torch.ones(int(seen.sum()), dtype=torch.float64))
    assert (one.prototypes[~seen] == 0).all()
    assert (one.counts <= batches).all()


def test_even_subset_takes_small_groups_whole_and_large_ones_evenly() -> None:
    groups = torch.tensor([7] * 500 + [3] * 4 + [0] * 300 + [9] * 10)
    chosen = even_subset(groups, 101, torch.Generator().manual_seed(1))
    assert len(set(chosen.tolist())) == 101
    counts = torch.bincount(groups[chosen], minlength=10)
    assert counts[3] == 4
    assert counts[9] == 10
    assert sorted([int(counts[0]), int(counts[7])]) == [43, 44]
    assert torch.equal(chosen, even_subset(groups, 101, torch.Generator().manual_seed(1)))
    assert not torch.equal(chosen, even_subset(groups, 101, torch.Generator().manual_seed(2)))


def _update_on_rank(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    bank = PrototypeBank(8).double()
    for seed in (0, 1):
        features, groups = _random_features(61, seed)
        mine = slice(0, 20) if rank == 0 else slice(20, None)  # ranks need not hold equally many pixels
        bank.update(features[mine], groups[mine])
    torch.save(bank.state_dict(), f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_hold_the_bank_of_one_process(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_update_on_rank, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = PrototypeBank(8).double()
    for seed in (0, 1):
        alone.update(*_random_features(61, seed))
    assert torch.equal(first["prototypes"], second["prototypes"])
    assert torch.equal(first["counts"], alone.counts)
    torch.testing.assert_close(first["prototypes"], alone.prototypes, rtol=0, atol=1e-12)


def test_weights_are_larger_for_rare_prototypes_and_average_one() -> None:
    bank = PrototypeBank(8)
    bank.counts[0, 0], bank.counts[1, 0], bank.counts[2, 2] = 100, 10, 40
    weights = bank.weights()
    seen = weights[bank.counts > 0]
    assert weights[1, 0] > weights[2, 2] > weights[0, 0] > 0
    assert seen.mean().item() == pytest.approx(1)
    assert weights[bank.counts == 0].sum() == 0
