"""Which image and which crop come next by the released rules, in plain loops: what `benchmarks.draws` compares with.

Read in the code of DAFormer, HRDA and DGInStyle's segmenters. Hardness, of which no code is released, is drawn by
FLEX-Seg's equations. Nothing of `training` is used, and the random numbers are the standard library's.
"""

import math
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np

CLASSES, IGNORE = 19, 255


class Rules(NamedTuple):
    """Sizes in px; `minimum` of a class in a label file, `wanted` in a crop; `draws` in the whole training."""

    crop: tuple[int, int]
    minimum: int
    wanted: int
    most: float
    draws: int
    temperature: float = 0.01


class Request(NamedTuple):
    """An image and the class that its crop should show."""

    image: int
    wanted: int


class Shown(NamedTuple):
    """A source draw: the class that was asked for, and how many px of it the crop has."""

    wanted: int
    px: int


def class_chances(pixels: np.ndarray, rules: Rules) -> list[float]:
    """softmax((1 - f) / T) over the classes of which there is a px (DAFormer, equation 9)."""
    total = pixels.sum()
    weights = []
    for c in range(CLASSES):
        share = pixels[:, c].sum() / total
        weights.append(math.exp((1 - share) / rules.temperature - 1 / rules.temperature) if share else 0.0)
    return [weight / sum(weights) for weight in weights]


def rare_requests(pixels: np.ndarray, rules: Rules, random: Random) -> Iterator[Request]:
    """A class by its chance, then one of the images that hold it; for ever."""
    chances = class_chances(pixels, rules)
    holding = [[i for i in range(len(pixels)) if pixels[i, c] > rules.minimum] for c in range(CLASSES)]
    while True:
        wanted = random.choices(range(CLASSES), chances)[0]
        if holding[wanted]:
            yield Request(random.choice(holding[wanted]), wanted)


def chosen_beforehand(pixels: np.ndarray, rules: Rules, pairs: int, random: Random) -> list[Request]:
    """The pool of the DAFormer rows: an image that is drawn a second time is not taken again."""
    chosen: dict[int, Request] = {}
    for request in rare_requests(pixels, rules, random):
        chosen.setdefault(request.image, request)
        if len(chosen) == pairs:
            break
    return list(chosen.values())


def crop(label: np.ndarray, request: Request, rules: Rules, random: Random) -> Shown:
    """What the crop of a request shows: drawn again until it has enough of the class, ten times at most."""
    shown = px(varied_crop(label, rules, random), request.wanted)
    for _ in range(10):
        if shown > rules.wanted:
            break
        shown = px(varied_crop(label, rules, random), request.wanted)
    return Shown(request.wanted, shown)


def varied_crop(label: np.ndarray, rules: Rules, random: Random) -> np.ndarray:
    """A crop anywhere, drawn again while one class covers too much of it, ten times at most."""
    found = anywhere(label, rules, random)
    for _ in range(10):
        counts = [count for count in np.bincount(found.ravel(), minlength=IGNORE)[:CLASSES].tolist() if count]
        if len(counts) > 1 and max(counts) / sum(counts) < rules.most:
            break
        found = anywhere(label, rules, random)
    return found


def anywhere(label: np.ndarray, rules: Rules, random: Random) -> np.ndarray:
    """A crop at a random corner."""
    top = random.randint(0, label.shape[0] - rules.crop[0])
    left = random.randint(0, label.shape[1] - rules.crop[1])
    return label[top : top + rules.crop[0], left : left + rules.crop[1]]


def px(label: np.ndarray, wanted: int) -> int:
    """How many px of a label map are of a class."""
    return int((label == wanted).sum())


def passes(images: int, generated: int, draws: int, random: Random) -> Iterator[int | None]:
    """Passes over source and generated images in random order: an index into the source's, None for a generated one."""
    order: list[int] = []
    for _ in range(draws):
        if not order:
            order = list(range(images + generated))
            random.shuffle(order)
        index = order.pop()
        yield index if index < images else None


def plain_training(
    labels: Sequence[np.ndarray],
    pixels: np.ndarray,
    rules: Rules,
    generated: int,
    pool: Sequence[Request] | None,
    random: Random,
) -> list[Shown]:
    """The source draws of a released training: over a pool that was chosen beforehand, or None for all on the fly."""
    on_the_fly = rare_requests(pixels, rules, random)
    shown = []
    for index in passes(len(labels) if pool is None else len(pool), generated, rules.draws, random):
        if index is not None:
            request = next(on_the_fly) if pool is None else pool[index]
            shown.append(crop(labels[request.image], request, rules, random))
    return shown


def hard_training(
    labels: Sequence[np.ndarray],
    pixels: np.ndarray,
    rules: Rules,
    generated: int,
    pool: Sequence[Request] | None,
    random: Random,
    *,
    losses: Sequence[float],
    block: int,
) -> list[Shown]:
    """The same with hardness (FLEX-Seg): ever more draws follow the softmax of what is known of the images' losses.

    Hardness chooses among the pairs, or among the images that hold the class; it is looked up anew every `block` draws.
    """
    size = len(labels) if pool is None else len(pool)
    chances = class_chances(pixels, rules)
    holding = [[i for i in range(len(pixels)) if pixels[i, c] > rules.minimum] for c in range(CLASSES)]
    chances = [chance if images else 0.0 for chance, images in zip(chances, holding, strict=True)]
    known: dict[int, float] = {}
    weights: list[float] = []
    shown = []
    for number in range(rules.draws):
        if number % block == 0:
            mean = sum(known.values()) / len(known) if known else 0.0
            weights = [math.exp(known.get(i, mean)) for i in range(size)]
        if random.random() < generated / (size + generated):
            continue
        t = 100 * number / rules.draws
        hard = random.random() > 1 / (1 + math.exp(0.05 * (t - 50)))
        if pool is None:
            wanted = random.choices(range(CLASSES), chances)[0]
            among = [weights[i] if hard else 1.0 for i in holding[wanted]]
            index = random.choices(holding[wanted], among)[0]
            request = Request(index, wanted)
        else:
            index = random.choices(range(size), weights)[0] if hard else random.randrange(size)
            request = pool[index]
        known[index] = losses[request.image]
        shown.append(crop(labels[request.image], request, rules, random))
    return shown
