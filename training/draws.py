"""Which image comes next: mix of pools, hardness-aware sampling (HAS, FLEX-Seg), rare-class sampling (RCS, DAFormer).

For every sample of a batch the `Drawer` decides, in this order:

1. from which pool: source (0) or generated (1), in the stated mix;
2. whether the draw follows hardness. At t% of the training it is plain with probability threshold(t), which falls; else
   the image is drawn by softmax of the moving average of its own loss;
3. a plain draw takes from the source a rare class and then an image that holds it, if rare-class sampling is on, and
   any image of the pool otherwise. A hardness draw does so too where the config says so, with hardness among the images
   that hold the class.

A source pool that was chosen beforehand consists of (image, class) pairs: rare-class sampling has acted already, every
draw is one of the pairs, and its crop shows the pair's class.

`pools.py` then reads the image and `data.py` cuts the crop. Draws depend on the seed, the block's first iteration and
the hardness known before the block was drawn: neither on workers nor on when a run was interrupted. That is why a block
of iterations is drawn at once. It is drawn when the block before it begins, so that its first images are loaded by the
time that they are wanted: hardness that was learned in a block acts from the next but one on.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from pipeline.config.training import HasConfig, Method, TrainingConfig
from pipeline.data.rare_classes import rare_class_probabilities
from pipeline.errors import UserError
from pipeline.seeding import random_generator

Schedule = Literal["sigmoid", "linear", "none"]


class Draw(NamedTuple):
    """Which image becomes which sample.

    `pool` 0 is the source, 1 the generated data; `image` is an index into it; `wanted_class` is the train id that the
    crop should show, -1 for none; `position` is the sample's place in the global batch.
    """

    pool: int
    image: int
    wanted_class: int
    iteration: int
    position: int


class Drawer:
    """Draws from the source and, where the method uses it, the generated pool (sizes in `images`).

    rare: draws from the source on the fly; classes: those of the source's images where it was chosen beforehand.

    Every pool has a hardness sampler of its own, so that HAS changes which images of a pool are drawn but not the
    stated mix (ours).
    """

    def __init__(
        self,
        config: TrainingConfig,
        method: Method,
        seed: int,
        images: Sequence[int],
        rare: "RareClassSampler | None",
        *,
        classes: Sequence[int] | None = None,
    ) -> None:
        self.config = config
        self.method = method
        self.seed = seed
        self.rare = None if classes is not None else rare
        self.classes = classes
        self.hardness = [
            HardnessSampler(count, rate=config.has.rate, temperature=config.has.temperature) for count in images
        ]
        share = config.generated_share
        self.generated_share = sum(images[1:]) / sum(images) if share is None else share

    def block(self, start: int, iterations: int) -> list[list[Draw]]:
        """The global batches of `iterations` iterations from `start` on."""
        rng = random_generator(self.seed, "draws", start)
        # Once per block: the probabilities of a large pool cost more than all its draws.
        chances = [sampler.probabilities() for sampler in self.hardness] if self.method.has else []
        return [
            [self._draw(rng, chances, iteration, position) for position in range(self.config.batch_size)]
            for iteration in range(start, start + iterations)
        ]

    def learn(self, draws: Sequence[Draw], losses: Sequence[float]) -> None:
        """Takes up the mean loss that each drawn image had."""
        for draw, loss in zip(draws, losses, strict=True):
            self.hardness[draw.pool].update(draw.image, loss)

    def _draw(self, rng: np.random.Generator, chances: list[np.ndarray], iteration: int, position: int) -> Draw:
        # The short circuits count: a method without a second pool or without HAS draws no number for that choice.
        pool = int(len(self.hardness) > 1 and rng.random() < self.generated_share)
        count = len(self.hardness[pool].hardness)
        if self.method.has and rng.random() > _threshold(self.config.has, iteration / self.config.iterations):
            if pool == 0 and self.rare is not None and self.config.has.rare_classes:
                return Draw(pool, *self.rare.draw(rng, chances[pool]), iteration, position)
            return self._own_class(Draw(pool, int(rng.choice(count, p=chances[pool])), -1, iteration, position))
        if pool == 0 and self.rare is not None:
            return Draw(pool, *self.rare.draw(rng), iteration, position)
        return self._own_class(Draw(pool, int(rng.integers(count)), -1, iteration, position))

    def _own_class(self, draw: Draw) -> Draw:
        """With the class that the image was chosen for, if it was."""
        return draw if draw.pool or self.classes is None else draw._replace(wanted_class=int(self.classes[draw.image]))


class HardnessSampler:
    """A moving average of each image's loss, (N,) float64, and how often each was seen, (N,) int64."""

    def __init__(self, images: int, *, rate: float = 0.9, temperature: float = 1.0) -> None:
        self.hardness = np.zeros(images)
        self.counts = np.zeros(images, dtype=np.int64)
        self.rate = rate
        self.temperature = temperature

    def update(self, index: int, loss: float) -> None:
        """h <- rate h + (1 - rate) loss; the first sighting copies the loss (ours)."""
        seen = self.counts[index] > 0
        self.hardness[index] = self.rate * self.hardness[index] + (1 - self.rate) * loss if seen else loss
        self.counts[index] += 1

    def probabilities(self) -> np.ndarray:
        """softmax(h / temperature), (N,) float64; unseen images hold the mean of the seen (ours)."""
        # With 0 instead, an image would be drawn the less the longer nobody has looked at it.
        seen = self.counts > 0
        mean = self.hardness[seen].mean() if seen.any() else 0.0
        return _softmax(np.where(seen, self.hardness, mean) / self.temperature)

    def state(self) -> Mapping[str, np.ndarray]:
        """What a checkpoint keeps."""
        return {"hardness": self.hardness.copy(), "counts": self.counts.copy()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes up a checkpoint's `state()`."""
        self.hardness, self.counts = np.array(state["hardness"]), np.array(state["counts"])


class RareClassSampler:
    """Draws a class, then an image that holds it. pixels: (N,C) pixels per image and class.

    An image holds a class from `minimum` px on. A class that no image holds so often is never drawn.
    """

    def __init__(self, pixels: np.ndarray, *, temperature: float = 0.01, minimum: int = 3000) -> None:
        self.holds = pixels > minimum
        self.images = [np.flatnonzero(held) for held in self.holds.T]
        held = np.array([len(images) > 0 for images in self.images])
        if not held.any():
            raise ValueError(f"no image has more than {minimum} px of any class: lower the minimum")
        self.chances = rare_class_probabilities(pixels.sum(axis=0), temperature, held)

    def draw(self, rng: np.random.Generator, weights: np.ndarray | None = None) -> tuple[int, int]:
        """(image index, class). weights: (N,) of the images, positive; without them those that hold the class are
        equally likely."""
        wanted = int(rng.choice(len(self.chances), p=self.chances))
        images = self.images[wanted]
        chances = None if weights is None else weights[images] / weights[images].sum()
        return int(rng.choice(images, p=chances)), wanted

    def draw_distinct(self, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
        """`count` pairs (image index, class), no image twice: distributed as if `draw` were repeated whenever it gives
        an image that was drawn before. UserError where that many images hold no class."""
        free, sizes = np.asarray(self.holds.any(axis=1)), self.holds.sum(axis=0)
        if (most := int(free.sum())) < count:
            raise UserError(
                f"training.source_pool wants {count} distinct images, but only {most} hold enough px of a class: lower"
                " its 'pairs', or set its 'distinct' to false"
            )
        left, pairs = sizes.copy(), []
        for _ in range(count):
            # What repeating comes to: a class counts by how many of its images are left, which are equally likely.
            chances = self.chances * left / np.maximum(sizes, 1)
            wanted = int(rng.choice(len(chances), p=chances / chances.sum()))
            images = self.images[wanted]
            image = int(rng.choice(images[free[images]]))
            free[image] = False
            left -= self.holds[image]
            pairs.append((image, wanted))
        return pairs


class DrawnBlocks:
    """The draws of the block that is trained on and of the one after it, from which loading takes its batches ahead."""

    def __init__(self, drawer: Drawer) -> None:
        self.drawer = drawer
        self._blocks: dict[int, list[list[Draw]]] = {}
        """By first iteration, in order."""

    def draw(self, iteration: int) -> None:
        """Draws the block of `iteration` and the next, as far as they are not drawn yet."""
        config = self.drawer.config
        first = iteration - iteration % config.block
        for start in range(first, min(first + 2 * config.block, config.iterations), config.block):
            if start not in self._blocks:
                self._blocks[start] = self.drawer.block(start, min(config.block, config.iterations - start))

    def batches(self, iteration: int) -> Iterator[list[Draw]]:
        """The global batches from `iteration` on. At most a block's number of them may be taken ahead of training."""
        config = self.drawer.config
        for k in range(iteration, config.iterations):
            yield self._blocks[k - k % config.block][k % config.block]

    def learn(self, losses: Sequence[Sequence[float]]) -> None:
        """Takes up the losses (iterations, B) of the first block, which is over."""
        for draws, per_image in zip(self._blocks.pop(min(self._blocks)), losses, strict=True):
            self.drawer.learn(draws, per_image)

    def state(self) -> list[list[list[int]]]:
        """What a checkpoint keeps: the draws, as they may come from hardness that is no longer known."""
        return [[list(draw) for draw in batch] for batches in self._blocks.values() for batch in batches]

    def restore(self, state: Sequence[Sequence[Sequence[int]]], iteration: int) -> None:
        """Takes up a checkpoint's `state()`, of when `iteration` iterations were done."""
        size = self.drawer.config.block
        first = iteration - iteration % size
        batches = [[Draw(*draw) for draw in batch] for batch in state]
        self._blocks = {first + k: batches[k : k + size] for k in range(0, len(batches), size)}


def rare_classes(config: TrainingConfig, pixels: np.ndarray) -> RareClassSampler | None:
    """The config's rare-class sampling by the class statistics (N,19) of the scenes that are trained on; None where it
    is off. UserError where no scene holds enough of any class."""
    if not config.rare_classes:
        return None
    if pixels.max() <= config.rare_class_pixels:
        raise UserError(
            f"no source image has more than training.rare_class_pixels {config.rare_class_pixels} px of any class:"
            " lower it, or set training.rare_classes to false"
        )
    return RareClassSampler(pixels, temperature=config.rare_class_temperature, minimum=config.rare_class_pixels)


def source_pairs(config: TrainingConfig, rare: RareClassSampler | None) -> list[tuple[int, int]] | None:
    """The (image index, class) pairs of a source that is chosen beforehand; None where the config wants none."""
    if config.source_pool is None:
        return None
    assert rare is not None, "the config's check holds it"
    pairs, rng = config.source_pool.pairs, random_generator("source pool")
    return rare.draw_distinct(rng, pairs) if config.source_pool.distinct else [rare.draw(rng) for _ in range(pairs)]


def hardness_threshold(
    t: float, schedule: Schedule = "sigmoid", steepness: float = 0.05, midpoint: float = 50.0
) -> float:
    """Probability of a plain draw at t = 100 x iteration / iterations: 1 / (1 + exp(k (t - m))).

    `linear` falls from 1 to 0, `none` is always 0: every draw is weighted by hardness (the paper's ablation).
    """
    if schedule == "none":
        return 0.0
    if schedule == "linear":
        return 1.0 - t / 100.0
    return float(1.0 / (1.0 + np.exp(steepness * (t - midpoint))))


def _threshold(config: HasConfig, done: float) -> float:
    return hardness_threshold(100 * done, config.schedule, config.steepness, config.midpoint)


def _softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    return np.asarray(exponentials / exponentials.sum())
