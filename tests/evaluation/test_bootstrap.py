"""Intervals and the paired test: identical models, an obviously better one, coverage and false alarms simulated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import bootstrap
from evaluation.bootstrap import interval, joint, paired
from pipeline.data.labels import NUM_CLASSES
from pipeline.data.scores import class_iou, mean_iou


def model(images: int, right: float, seed: int, classes: int = 4, pixels: int = 500) -> np.ndarray:
    """(N,19,19): images of `classes` classes of which about `right` of the pixels are right, more or less by image."""
    rng = np.random.default_rng(seed)
    confusions = np.zeros((images, NUM_CLASSES, NUM_CLASSES), np.int64)
    for confusion in confusions:
        share = rng.beta(8 * right, 8 * (1 - right))
        chances = np.full((classes, classes), (1 - share) / (classes - 1))
        np.fill_diagonal(chances, share)
        confusion[:classes, :classes] = rng.multinomial(pixels, chances)
    return confusions


def miou(confusions: np.ndarray) -> float:
    return mean_iou(class_iou(confusions.sum(axis=0)))


def test_the_vectorized_resamples_are_those_of_a_loop() -> None:
    confusions = model(12, 0.6, 0)
    terms = bootstrap._terms(confusions)
    weights = bootstrap._resamples(12, 0)
    assert weights.shape == (bootstrap.RESAMPLES, 12) and (weights.sum(axis=1) == 12).all()
    found = bootstrap._miou(weights @ terms)
    for drawn, score in zip(weights[:50].astype(int), found, strict=False):
        assert miou(np.repeat(confusions, drawn, axis=0)) == pytest.approx(score, abs=1e-12)


def test_interval_holds_the_score_and_is_the_same_every_time() -> None:
    confusions = model(40, 0.6, 0)
    low, high = interval(confusions)
    assert low < miou(confusions) < high and (low, high) == interval(confusions) != interval(confusions, seed=1)
    narrow = interval(np.concatenate([confusions] * 9))
    assert narrow[1] - narrow[0] == pytest.approx((high - low) / 3, rel=0.15)  # 1 / sqrt(9)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 12), st.floats(0.2, 0.9), st.integers(0, 9))
def test_identical_models_do_not_differ(images: int, right: float, seed: int) -> None:
    confusions = model(images, right, seed)
    found = paired(confusions, confusions)
    assert found == (0, 0, 0, 1) and not found.significant


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 9), st.integers(0, 9))
def test_the_difference_is_that_of_the_scores_and_its_sign_turns(one: int, two: int) -> None:
    baseline, other = model(10, 0.5, one), model(10, 0.6, two)
    found, back = paired(baseline, other), paired(other, baseline)
    assert found.difference == pytest.approx(miou(other) - miou(baseline), abs=1e-12)
    assert found.low <= found.high and 0 < found.p <= 1
    np.testing.assert_allclose([-back.difference, -back.high, -back.low], found[:3], atol=1e-12)
    assert back.p == found.p


def test_an_obviously_better_model_is_significant_and_few_images_never_are() -> None:
    better = paired(model(40, 0.5, 0), model(40, 0.8, 1))
    assert better.significant and better.p < 0.001 and 0 < better.low < better.difference < better.high
    assert not paired(model(3, 0.5, 0), model(3, 0.8, 1)).significant


def test_seeds_of_a_method_count_together() -> None:
    seeds = np.stack([model(30, 0.6, seed) for seed in range(3)])
    low, high = interval(seeds)
    assert low < np.mean([miou(one) for one in seeds]) < high
    same = paired(seeds, seeds[[2, 0, 1]])
    assert same.difference == pytest.approx(0, abs=1e-12) and same.p == 1
    single = paired(seeds, seeds[0])  # 3 seeds against 1
    assert single.difference == pytest.approx(miou(seeds[0]) - np.mean([miou(one) for one in seeds]), abs=1e-12)


def test_domains_count_alike_in_the_mean_and_empty_ones_not_at_all() -> None:
    pairs = [(model(20, 0.5, 0), model(20, 0.6, 1)), (model(40, 0.5, 2), model(40, 0.5, 3))]
    empty = (np.zeros((0, 19, 19), np.int64),) * 2
    found = joint([*pairs, empty])
    assert found.difference == pytest.approx(np.mean([paired(*pair).difference for pair in pairs]), abs=1e-12)
    assert np.isnan(paired(*empty)).all() and not paired(*empty).significant
    assert np.isnan(interval(empty[0])).all()


def test_nothing_labeled_has_no_interval() -> None:
    nothing = np.zeros((3, 19, 19), np.int64)
    assert np.isnan(interval(nothing)).all()
    assert np.isnan(paired(nothing, nothing)).all()


def test_coverage_and_false_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many draws of 30 images the 95% interval holds the truth about as often as it says, and two equally good
    models are told apart in about 5% of the cases. Three standard errors of 200 trials are 0.046."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 300)
    truth = miou(model(4000, 0.6, 999))
    covered = alarms = 0
    for trial in range(200):
        one, two = model(30, 0.6, 2 * trial), model(30, 0.6, 2 * trial + 1)
        low, high = interval(one, seed=trial)
        covered += low <= truth <= high
        alarms += paired(one, two, seed=trial).significant
    assert 0.88 <= covered / 200 <= 0.99
    assert alarms / 200 <= 0.1
