"""The simulation of many workers, against formulas and against real processes."""

import math
from dataclasses import replace

import pytest

from benchmarks.simulation import Rates, compare_with_reality, simulate

RATE = 2.0  # images per second


@pytest.mark.parametrize(("images", "count", "size"), [(960, 4, 24), (1000, 3, 48), (10, 64, 48), (1, 1, 1)])
def test_without_losses_the_time_is_the_rounds(images: int, count: int, size: int) -> None:
    outcome = simulate(images, count, size, Rates(RATE))
    shards = math.ceil(images / size)
    rounds = math.ceil(shards / count)
    last = images - (shards - 1) * size if (shards - 1) % count == 0 else size  # beside full ones, or alone
    assert outcome.seconds == pytest.approx(((rounds - 1) * size + last) / RATE)
    assert sum(outcome[1:]) == pytest.approx(1)
    assert outcome.painting == pytest.approx(images / RATE / (count * outcome.seconds))
    assert (outcome.starting, outcome.shards, outcome.lost) == (0, 0, 0)


def test_every_cost_is_counted() -> None:
    outcome = simulate(960, 4, 24, Rates(RATE, start=30, shard=0.5, look=0.01))
    assert outcome.seconds == pytest.approx(30 + 10 * (24 / RATE + 0.5 + 4 * 0.01))
    assert outcome.starting * 4 * outcome.seconds == pytest.approx(4 * 30)
    assert outcome.shards * 4 * outcome.seconds == pytest.approx(40 * 0.54)
    assert outcome.idle == pytest.approx(0, abs=1e-12)


def test_a_slow_scheduler_is_the_limit() -> None:
    """It hands out one shard after another: workers wait once it needs longer than their number allows."""
    outcome = simulate(10_000, 64, 10, Rates(RATE, handing=1.0))
    assert outcome.seconds == pytest.approx(1000 * 1.0 + 10 / RATE)
    assert simulate(10_000, 4, 10, Rates(RATE, handing=1.0)).seconds == pytest.approx(250 * 6 + 3, rel=0.01)


def test_deaths_cost_what_the_exponential_distribution_says() -> None:
    """A shard of t seconds that starts anew after each death takes (exp(λt) - 1) / λ on average."""
    rates = Rates(RATE, deaths_per_h=60, replaced=0)
    seconds, each = 24 / RATE, 60 / 3600
    runs = [simulate(24 * 400, 1, 24, rates, seed=seed) for seed in range(20)]
    mean = sum(run.seconds for run in runs) / len(runs) / 400
    assert mean == pytest.approx((math.exp(each * seconds) - 1) / each, rel=0.02)
    assert mean > 1.05 * seconds
    assert all(run.idle == pytest.approx(0, abs=1e-9) for run in runs)


def test_small_shards_lose_less_and_large_ones_wait_less_for_the_scheduler() -> None:
    rates = Rates(0.5, handing=0.05, deaths_per_h=0.5, replaced=60)
    small, large = (simulate(100_000, 64, size, rates) for size in (8, 512))
    assert small.lost < large.lost
    assert small.idle < large.idle
    assert small.shards > large.shards
    assert simulate(100_000, 64, 8, rates) == simulate(100_000, 64, 8, replace(rates))


def test_real_processes_take_the_simulated_time() -> None:
    simulated, real = compare_with_reality(count=2, shards=9, items=4, image=0.05)
    assert simulated == pytest.approx(5 * 4 * 0.05)
    assert simulated <= real < simulated + 0.6  # 1.8 s if one did it all; what else runs on the machine slows them
