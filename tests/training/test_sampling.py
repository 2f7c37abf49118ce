"""Draws follow their stated distributions, and nothing but seed, block and hardness decides them."""

from itertools import islice

import numpy as np
import pytest

from pipeline.config.training import HasConfig, Method, TrainingConfig
from pipeline.data.rare_classes import rare_class_probabilities
from pipeline.errors import UserError
from pipeline.seeding import random_generator
from training.draws import (
    Draw,
    Drawer,
    DrawnBlocks,
    HardnessSampler,
    RareClassSampler,
    hardness_threshold,
    rare_classes,
    source_pairs,
)


def test_thresholds_of_the_ablation() -> None:
    assert [hardness_threshold(t, "none") for t in (0, 50, 100)] == [0, 0, 0]
    assert [hardness_threshold(t, "linear") for t in (0, 50, 100)] == [1, 0.5, 0]
    assert hardness_threshold(50, "sigmoid") == 0.5


def test_hardness_is_a_moving_average_that_starts_at_the_first_loss() -> None:
    sampler = HardnessSampler(3)
    np.testing.assert_allclose(sampler.probabilities(), 1 / 3)
    sampler.update(1, 2.0)
    sampler.update(1, 1.0)
    assert sampler.hardness[1] == pytest.approx(0.9 * 2.0 + 0.1 * 1.0)
    np.testing.assert_allclose(sampler.probabilities(), 1 / 3)  # unseen images hold the mean of the seen
    sampler.update(0, 5.0)
    assert sampler.probabilities()[0] == sampler.probabilities().max()


def test_rare_class_draws_follow_the_probabilities_and_show_the_class() -> None:
    pixels = np.zeros((6, 19), np.int64)
    pixels[:, 0] = 90_000
    pixels[2, 5], pixels[4, 5], pixels[5, 11] = 4000, 2000, 3500
    sampler = RareClassSampler(pixels, temperature=0.5)
    random = random_generator("test")
    draws = [sampler.draw(random) for _ in range(3000)]
    assert all(pixels[image, wanted] > 3000 for image, wanted in draws)
    wanted = rare_class_probabilities(pixels.sum(axis=0), 0.5)[[0, 5, 11]]
    shares = np.bincount([c for _, c in draws], minlength=19)[[0, 5, 11]] / len(draws)
    np.testing.assert_allclose(shares, wanted, atol=4 * np.sqrt(0.25 / len(draws)))


def test_no_class_with_enough_pixels_is_an_error() -> None:
    with pytest.raises(ValueError, match="lower the minimum"):
        RareClassSampler(np.ones((2, 19), np.int64))


def _drawer(method: Method, schedule: str = "none", share: float = 0.25) -> Drawer:
    config = TrainingConfig(
        iterations=100, batch_size=50, generated_share=share, has=HasConfig.model_validate({"schedule": schedule})
    )
    return Drawer(config, method, 3, (4, 2), None)


def test_hard_draws_follow_the_softmax_within_each_pool_and_keep_the_mix() -> None:
    drawer = _drawer(Method(generated=True, has=True))
    drawer.hardness[0].restore({"hardness": np.array([0.0, 1.0, 2.0, 3.0]), "counts": np.ones(4, np.int64)})
    draws = [draw for batch in drawer.block(0, 80) for draw in batch]
    generated = np.array([draw.pool for draw in draws])
    assert generated.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.19 / len(draws)))
    source = np.bincount([draw.image for draw in draws if draw.pool == 0], minlength=4) / (generated == 0).sum()
    np.testing.assert_allclose(source, drawer.hardness[0].probabilities(), atol=4 * np.sqrt(0.25 / 3000))


def test_hardness_acts_late_under_the_sigmoid() -> None:
    drawer = _drawer(Method(has=True), "sigmoid", share=0.0)
    drawer.hardness[0].restore({"hardness": np.array([0.0, 0.0, 0.0, 20.0]), "counts": np.ones(4, np.int64)})
    early, late = ([draw.image for batch in drawer.block(start, 20) for draw in batch] for start in (0, 80))
    assert 0.2 < np.mean(np.array(early) == 3) < 0.45  # a quarter, and what the threshold's 8 to 18% add
    assert np.mean(np.array(late) == 3) > 0.8


def test_a_block_is_drawn_the_same_again() -> None:
    method = Method(generated=True, has=True)
    assert _drawer(method).block(40, 5) == _drawer(method).block(40, 5)
    assert _drawer(method).block(40, 5) != _drawer(method).block(45, 5)


def _learning(iteration: int, draws: list[Draw]) -> list[float]:
    """What these images' losses might be."""
    return [(draw.image % 3) + iteration / 50 for draw in draws]


def test_a_block_is_drawn_when_the_one_before_begins() -> None:
    """Against a plain loop that knows the rule: the hardness of block b acts from block b + 2 on. The loader may take a
    whole block ahead, and a training that goes on from a checkpoint in a block draws the same."""
    method = Method(generated=True, has=True)
    config = _drawer(method).config.of(Method(training={"block": 7}))
    plain = Drawer(config, method, 3, (4, 2), None)
    drawn: list[list[Draw]] = []
    for start in range(0, 100, 7):
        if start >= 14:
            for iteration in range(start - 14, start - 7):
                plain.learn(drawn[iteration], _learning(iteration, drawn[iteration]))
        drawn += plain.block(start, min(7, 100 - start))

    drawer = Drawer(config, method, 3, (4, 2), None)
    ahead, losses = DrawnBlocks(drawer), []
    taken: list[list[Draw]] = []
    ahead.draw(0)
    batches = ahead.batches(0)
    for iteration in range(100):
        if iteration == 40:
            state, ahead = ahead.state(), DrawnBlocks(drawer)
            ahead.restore(state, iteration)
            ahead.draw(iteration)
            taken, batches = taken[:iteration], ahead.batches(iteration)
        taken += islice(batches, iteration + 8 - len(taken))
        losses.append(_learning(iteration, taken[iteration]))
        if len(losses) == 7 or iteration == 99:
            ahead.learn(losses)
            ahead.draw(iteration + 1)
            losses = []
    assert taken == drawn


STATISTICS = random_generator("class statistics").integers(0, 2, (400, 19)) * random_generator("sizes").integers(
    0, 9000, (400, 19)
)
"""px of each class in 400 images; a class is in half of them."""
STATISTICS[:, 6:] //= 40 * np.arange(1, 14)
STATISTICS[:6, 6:] = 4000


def _draws(config: TrainingConfig, method: Method, *, pool: bool) -> tuple[list[Draw], list[int]]:
    """All draws of a training with hardness that was learned beforehand, and the source's own images."""
    rare = rare_classes(config, STATISTICS)
    pairs = source_pairs(config, rare) if pool else None
    images = list(range(400)) if pairs is None else [image for image, _ in pairs]
    classes = None if pairs is None else [wanted for _, wanted in pairs]
    drawer = Drawer(config, method, 0, [len(images)], rare, classes=classes)
    for index in range(len(images)):
        drawer.hardness[0].update(index, 2.0 if index % 2 else 0.5)
    return [draw for batch in drawer.block(0, config.iterations) for draw in batch], images


@pytest.mark.parametrize("has", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_hardness_keeps_the_rare_classes_of_the_source(tiny_config: TrainingConfig, has: bool, pool: bool) -> None:
    """Issue 12, section 2: over a whole training the classes of the draws follow DAFormer's rule, written anew here,
    with and without HAS; and every image holds its class."""
    changes = {
        "iterations": 4000,
        "rare_class_pixels": 3000,
        "has": {"rare_classes": True},
        "source_pool": {"pairs": 6000} if pool else None,
    }
    config = tiny_config.of(Method(training=changes))
    draws, images = _draws(config, Method(has=has), pool=pool)
    frequency = STATISTICS.sum(axis=0) / STATISTICS.sum()
    held = (STATISTICS > 3000).any(axis=0)
    rule = np.where(held, np.exp((1 - frequency) / 0.01 - 100), 0)
    shares = np.bincount([draw.wanted_class for draw in draws], minlength=19) / len(draws)
    # Of pairs that were chosen beforehand hardness prefers half, so it moves the shares by a few of its own draws.
    np.testing.assert_allclose(shares, rule / rule.sum(), atol=0.03)
    assert all(STATISTICS[images[draw.image], draw.wanted_class] > 3000 for draw in draws)
    late = [draw.image % 2 for draw in draws if draw.iteration > 3000]
    harder = np.exp(2.0) / (np.exp(2.0) + np.exp(0.5))
    assert np.mean(late) == pytest.approx(0.5 if not has else 0.93 * harder + 0.07 * 0.5, abs=0.12)


def test_hardness_replaces_rare_classes_by_default(tiny_config: TrainingConfig) -> None:
    """As before the option: whose trainings stay what they were."""
    config = tiny_config.of(Method(training={"iterations": 2000, "rare_class_pixels": 3000}))
    draws, _ = _draws(config, Method(has=True), pool=False)
    late = [draw.wanted_class for draw in draws if draw.iteration > 1500]
    assert np.mean([wanted == -1 for wanted in late]) > 0.8


def test_the_source_pool_is_the_same_for_every_seed_and_method(tiny_config: TrainingConfig) -> None:
    config = tiny_config.of(Method(training={"source_pool": {"pairs": 50}}))
    rare = rare_classes(config, STATISTICS)
    assert source_pairs(config, rare) == source_pairs(config, rare)
    assert source_pairs(tiny_config, rare) is None
    with pytest.raises(ValueError, match="'source_pool' is chosen by rare-class sampling"):
        tiny_config.of(Method(training={"source_pool": {"pairs": 50}, "rare_classes": False}))


def test_distinct_pairs_are_those_of_drawing_again(tiny_config: TrainingConfig) -> None:
    """Beside the released rule, written anew: pairs whose image was chosen before are drawn again."""
    config = tiny_config.of(Method(training={"rare_class_pixels": 3000, "rare_class_temperature": 0.1}))
    rare = rare_classes(config, STATISTICS)
    assert rare is not None
    shares = np.zeros((2, 19))
    for seed in range(10):
        pairs = rare.draw_distinct(np.random.default_rng(seed), 60)
        assert len({image for image, _ in pairs}) == 60
        assert all(STATISTICS[image, wanted] > 3000 for image, wanted in pairs)
        rng = np.random.default_rng(1000 + seed)
        chosen: dict[int, int] = {}
        while len(chosen) < 60:
            wanted = int(rng.choice(19, p=rare.chances))
            image = int(rng.choice(np.flatnonzero(STATISTICS[:, wanted] > 3000)))
            chosen.setdefault(image, wanted)
        for row, classes in enumerate(([wanted for _, wanted in pairs], list(chosen.values()))):
            shares[row] += np.bincount(classes, minlength=19) / 600
    np.testing.assert_allclose(shares[0], shares[1], atol=0.05)
    assert np.abs(shares[1] - rare.chances).max() > 0.05  # classes with few images run out of them
    wanting = tiny_config.of(Method(training={"source_pool": {"pairs": 401, "distinct": True}}))
    with pytest.raises(UserError, match="wants 401 distinct images, but only"):
        source_pairs(wanting, rare)
