"""Which images a block of iterations trains on.

Draws depend on the seed, the block's first iteration and the hardness known before the block: neither on workers nor
on when a run was interrupted.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.config.training import HasConfig, Method, TrainingConfig
from pipeline.seeding import generator
from training.data import Draw
from training.sampling import HardnessSampler, RareClassSampler, hardness_threshold


class Drawer:
    """Draws from the source and, where the method uses it, the generated pool (sizes in `images`).

    Every pool has a hardness sampler of its own, so that HAS changes which images of a pool are drawn but not the
    stated mix (ours).
    """

    def __init__(
        self, config: TrainingConfig, method: Method, seed: int, images: Sequence[int], rare: RareClassSampler | None
    ) -> None:
        self.config = config
        self.method = method
        self.seed = seed
        self.rare = rare
        self.hardness = [
            HardnessSampler(count, rate=config.has.rate, temperature=config.has.temperature) for count in images
        ]
        share = config.generated_share
        self.generated_share = sum(images[1:]) / sum(images) if share is None else share

    def block(self, start: int, iterations: int) -> list[list[Draw]]:
        """The global batches of `iterations` iterations from `start` on."""
        random = generator(self.seed, "draws", start)
        chances = [sampler.probabilities() for sampler in self.hardness] if self.method.has else []
        return [
            [self._draw(random, chances, iteration, position) for position in range(self.config.batch_size)]
            for iteration in range(start, start + iterations)
        ]

    def learn(self, draws: Sequence[Draw], losses: Sequence[float]) -> None:
        """Takes up the mean loss that each drawn image had."""
        for draw, loss in zip(draws, losses, strict=True):
            self.hardness[draw.pool].update(draw.image, loss)

    def _draw(self, random: np.random.Generator, chances: list[np.ndarray], iteration: int, position: int) -> Draw:
        pool = int(len(self.hardness) > 1 and random.random() < self.generated_share)
        count = len(self.hardness[pool].hardness)
        if self.method.has and random.random() > _threshold(self.config.has, iteration / self.config.iterations):
            return Draw(pool, int(random.choice(count, p=chances[pool])), -1, iteration, position)
        if pool == 0 and self.rare is not None:
            index, wanted = self.rare.draw(random)
            return Draw(pool, index, wanted, iteration, position)
        return Draw(pool, int(random.integers(count)), -1, iteration, position)


def _threshold(config: HasConfig, done: float) -> float:
    return hardness_threshold(100 * done, config.schedule, config.steepness, config.midpoint)
