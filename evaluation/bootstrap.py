"""How sure a score is: intervals by the bootstrap over images, and a paired permutation test of two models.

Images are the unit of chance here: an interval says how far the mIoU would move on other images of the same kind. It
says nothing about other training seeds; where several seeds are given, the statistic is the mean of their mIoU.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.seeding import generator

RESAMPLES = 2000
LEVEL = 0.95
SIGNIFICANT = 0.05

Confusions = NDArray[np.int64]
"""(N,19,19): one confusion per image; or (S,N,19,19): of S seeds of one method on the same images."""
Values = NDArray[np.float64]


class Difference(NamedTuple):
    """Other minus baseline in mIoU (0..1), its 95% interval, and the two-sided p-value. NaN where nothing is scored."""

    difference: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether chance in the choice of images explains it badly (p < 0.05)."""
        return self.p < SIGNIFICANT


def interval(confusions: Confusions, *, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mIoU (0..1) of a set of images; (NaN, NaN) where there is nothing to score."""
    terms = _terms(confusions)
    return _percentiles(_miou(_resamples(terms.shape[1], seed) @ terms))


def paired(baseline: Confusions, other: Confusions, *, seed: int = 0) -> Difference:
    """The difference of two models on the same images, in the same order; see `joint`."""
    return joint([(baseline, other)], seed=seed)


def joint(pairs: Sequence[tuple[Confusions, Confusions]], *, seed: int = 0) -> Difference:
    """The difference of two models in their mIoU averaged over domains; one (baseline, other) pair per domain.

    The interval resamples images with replacement, the same for both models. The test exchanges the two models'
    predictions image by image at random, which changes nothing if they are equally good. Domains without images are
    left out.
    """
    domains = [_domain(*pair, seed=seed + k) for k, pair in enumerate(pairs) if pair[0].shape[-3]]
    if not domains:
        return Difference(*[math.nan] * 4)
    observed, resampled, exchanged = (np.mean(column, axis=0) for column in zip(*domains, strict=True))
    extreme = np.abs(exchanged) >= abs(observed) - 1e-12
    p = (1 + int(np.count_nonzero(extreme))) / (1 + RESAMPLES) if np.isfinite(observed) else math.nan
    return Difference(float(observed), *_percentiles(resampled), p)


def _domain(baseline: Confusions, other: Confusions, *, seed: int) -> tuple[float, Values, Values]:
    """The observed difference, (R,) of resampled images, (R,) of exchanged models."""
    first, second = _terms(baseline), _terms(other)
    seeds = math.lcm(len(first), len(second))  # pairs every seed of the one with seeds of the other
    first, second = (np.tile(terms, (seeds // len(terms), 1, 1)) for terms in (first, second))
    images = first.shape[1]
    weights = _resamples(images, seed)
    moved = generator("exchange", seed).integers(0, 2, (RESAMPLES, images)).astype(np.float64) @ (second - first)
    return (
        float((_miou(second.sum(axis=1, keepdims=True)) - _miou(first.sum(axis=1, keepdims=True)))[0]),
        _miou(weights @ second) - _miou(weights @ first),
        _miou(second.sum(axis=1, keepdims=True) - moved) - _miou(first.sum(axis=1, keepdims=True) + moved),
    )


def _terms(confusions: Confusions) -> Values:
    """(S,N,38): intersection and union per class, which add up over images; whole numbers below 2^53, so exact."""
    stacked = confusions if confusions.ndim == 4 else confusions[None]
    intersection = np.diagonal(stacked, axis1=2, axis2=3)
    union = stacked.sum(axis=2) + stacked.sum(axis=3) - intersection
    return np.concatenate([intersection, union], axis=2).astype(np.float64)


def _resamples(images: int, seed: int) -> Values:
    """(R,N): how often each image is drawn in each resample."""
    if images == 0:
        return np.zeros((RESAMPLES, 0))
    drawn = generator("bootstrap", seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    return drawn.astype(np.float64)


def _miou(terms: Values) -> Values:
    """(S,R,38) summed terms -> (R,) mIoU over the classes that have one, averaged over seeds; NaN if none has."""
    intersection, union = np.split(terms, 2, axis=2)
    present = union > 0
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=present)
    classes = present.sum(axis=2)
    miou = np.divide(iou.sum(axis=2), classes, out=np.full(classes.shape, np.nan), where=classes > 0)
    return np.asarray(miou.mean(axis=0))


def _percentiles(values: Values) -> tuple[float, float]:
    """The middle 95% of the resamples that have a score."""
    scored = values[~np.isnan(values)]
    if not scored.size:
        return math.nan, math.nan
    low, high = np.quantile(scored, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
