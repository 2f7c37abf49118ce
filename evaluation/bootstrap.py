"""How sure a score is, and whether two models differ: chance in the images and chance in the training.

Two things vary when an experiment is repeated. Other images: whole sequences (drives) are drawn again with replacement,
within each weather condition, the same ones for both models. Other training seeds: with two or more seeds on both
sides their spread is known, and the statement is about the *methods*; with one seed it is about these *networks* only,
for nobody can say from one training how another would have ended.

The two are put together as in an analysis of variance with seeds and sequences crossed: variance over seeds, plus
variance over sequences, minus their interaction, which both contain. Three seeds are few, so intervals and tests use
Student's t with Satterthwaite's degrees of freedom; drawing three seeds with replacement would make the spread too
small by a third and its tails too light. The set of classes stays the observed one: a class that a draw holds no
pixel of keeps its observed IoU, so that a rare class does not come and go.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.seeding import random_generator

RESAMPLES = 2000
LEVEL = 0.95
SIGNIFICANT = 0.05
SAME = 1e-12
"""Differences below this are rounding."""

Confusions = NDArray[np.int64]
"""(N,19,19): one confusion per image; or (S,N,19,19): of S seeds of one method on the same images."""
Values = NDArray[np.float64]
Groups = NDArray[np.int64]
"""(N,) numbers that tell to which sequence, or to which condition, an image belongs."""


class Clusters(NamedTuple):
    """How chance draws the images of a domain: whole sequences, within each condition. None: image by image."""

    sequences: Groups | None = None
    conditions: Groups | None = None


EACH_IMAGE = Clusters()
"""Every image for itself."""


class Difference(NamedTuple):
    """Other minus baseline in mIoU (0..1), its 95% interval, and the two-sided p-value. NaN where nothing is scored."""

    difference: float
    low: float
    high: float
    p: float
    error: float = math.nan
    """Standard error of the difference."""
    freedom: float = math.inf
    """Degrees of freedom of that error."""
    methods: bool = False
    """Whether both sides had several seeds, so that the statement is about the methods."""

    @property
    def significant(self) -> bool:
        """Whether chance explains it badly (p < 0.05). Of one comparison; of several, see `holm`."""
        return self.p < SIGNIFICANT

    def p_fell(self, limit: float) -> float:
        """One-sided p-value of `the difference lies below -limit` (`limit` in 0..1); NaN where nothing is scored."""
        return _tail(-(self.difference + limit), self.error, self.freedom)


UNSCORED = Difference(math.nan, math.nan, math.nan, math.nan)
"""The difference of models that have nothing in common that could be scored."""


class _Spread(NamedTuple):
    """One domain: the scores of baseline and other, and how they move with the images that chance draws."""

    scores: tuple[Values, Values]
    """(S,) mIoU per seed, of either side."""
    drawn: tuple[Values, Values]
    """(S,R) mIoU per seed and resample."""
    units: int
    """Sequences (or images) that could be drawn."""


def interval(confusions: Confusions, clusters: Clusters = EACH_IMAGE, *, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mIoU (0..1) of one method over images and seeds; (NaN, NaN) where there is nothing to score.

    With one seed it is the middle 95% of the resamples, as no training's chance is known.
    """
    terms = _terms(confusions)
    if not terms.shape[1]:
        return math.nan, math.nan
    observed = _class_iou(terms.sum(axis=1, keepdims=True))
    weights, units = _resamples(terms.shape[1], clusters, seed)
    drawn = _miou(weights @ terms, observed)
    if len(terms) == 1:
        return _percentiles(drawn[0])
    scores = _mean(observed)[:, 0]
    error, freedom = _error([scores], [drawn], units)
    reach = _quantile(freedom) * error
    return float(scores.mean() - reach), float(scores.mean() + reach)


def paired_difference(
    baseline: Confusions, other: Confusions, clusters: Clusters = EACH_IMAGE, *, seed: int = 0
) -> Difference:
    """The difference of two models on the same images, in the same order; see `joint`."""
    return joint([(baseline, other)], [clusters], seed=seed)


def joint(
    pairs: Sequence[tuple[Confusions, Confusions]], clusters: Sequence[Clusters] | None = None, *, seed: int = 0
) -> Difference:
    """The difference of two models in their mIoU averaged over domains; one (baseline, other) pair per domain.

    With several seeds on both sides: Student's t over seeds and images (about the methods). Otherwise: the interval
    resamples sequences, and the test exchanges the two networks' predictions sequence by sequence at random, which
    changes nothing if they are equally good (about these networks). Domains without images are left out.
    """
    how = clusters or [EACH_IMAGE] * len(pairs)
    scored = [(pair, of, seed + k) for k, (pair, of) in enumerate(zip(pairs, how, strict=True)) if pair[0].size]
    if not scored:
        return UNSCORED
    spreads = [_spread(*pair, of, seed=number) for pair, of, number in scored]
    sides = [np.mean([spread.scores[side] for spread in spreads], axis=0) for side in (0, 1)]
    drawn = [np.mean([spread.drawn[side] for spread in spreads], axis=0) for side in (0, 1)]
    observed = float(sides[1].mean() - sides[0].mean())
    if not math.isfinite(observed):
        return UNSCORED
    methods = min(len(side) for side in sides) > 1
    error, freedom = _error(sides, drawn, min(spread.units for spread in spreads))
    moved = drawn[1].mean(axis=0) - drawn[0].mean(axis=0)
    if max(abs(observed), np.abs(moved).max()) < SAME:
        return Difference(observed, observed, observed, 1.0, 0.0, freedom, methods)
    if methods:
        reach = _quantile(freedom) * error
        p = min(1.0, 2 * _tail(abs(observed), error, freedom))
        return Difference(observed, observed - reach, observed + reach, p, error, freedom, methods)
    exchanged = np.mean([_exchanged(_terms(a), _terms(b), of, number) for (a, b), of, number in scored], axis=0)
    p = (1 + int(np.count_nonzero(np.abs(exchanged) >= abs(observed) - SAME))) / (1 + RESAMPLES)
    return Difference(observed, *_percentiles(moved), p, error, freedom, methods)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several comparisons, corrected so that one false alarm among all of them has its nominal chance.

    Holm (1979): the smallest of m is multiplied by m, the next by m - 1 and so on, never falling. NaN stays NaN and
    counts as no comparison.
    """
    order = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    corrected, highest = list(p_values), 0.0
    for rank, (p, k) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[k] = highest
    return corrected


def _spread(baseline: Confusions, other: Confusions, clusters: Clusters, *, seed: int) -> _Spread:
    terms = _terms(baseline), _terms(other)
    observed = [_class_iou(side.sum(axis=1, keepdims=True)) for side in terms]
    # The same draws for both sides: what makes a sequence hard for one makes it hard for the other.
    weights, units = _resamples(terms[0].shape[1], clusters, seed)
    first, second = (_miou(weights @ side, iou) for side, iou in zip(terms, observed, strict=True))
    return _Spread((_mean(observed[0])[:, 0], _mean(observed[1])[:, 0]), (first, second), units)


def _exchanged(first: Values, second: Values, clusters: Clusters, seed: int) -> Values:
    """(R,) differences of the mean mIoU where sequences change sides at random.

    Every seed of the one side is exchanged with seeds of the other.
    """
    seeds = math.lcm(len(first), len(second))
    first, second = (np.tile(terms, (seeds // len(terms), 1, 1)) for terms in (first, second))
    places = _units(first.shape[1], clusters)[0]
    coins = random_generator("exchange", seed).integers(0, 2, (RESAMPLES, int(places.max()) + 1)).astype(np.float64)
    moved = coins[:, places] @ (second - first)
    after = _mean(_class_iou(second.sum(axis=1, keepdims=True) - moved))
    before = _mean(_class_iou(first.sum(axis=1, keepdims=True) + moved))
    return np.asarray((after - before).mean(axis=0))


def _error(sides: Sequence[Values], drawn: Sequence[Values], units: int) -> tuple[float, float]:
    """Standard error of the difference of the sides' means over seeds (of the mean, for one side), and its degrees of
    freedom. sides: (S,) mIoU per seed; drawn: (S,R) the same per resample of the images; units: sequences drawn."""
    # The mean over seeds moves with the images drawn; few sequences underestimate how much.
    means = [one.mean(axis=0) for one in drawn]
    correction = units / max(units - 1, 1)
    of_images = float((means[-1] - means[0] if len(means) > 1 else means[0]).var()) * correction
    of_seeds = [float(side.var(ddof=1)) / len(side) if len(side) > 1 else 0.0 for side in sides]
    # Seeds also differ because each does better on other images. That part is in both variances: take it out once.
    interaction = sum(
        float((one - one.mean(axis=0)).var(axis=1).mean()) / (len(one) - 1) * correction
        for one in drawn
        if len(one) > 1
    )
    variance = max(sum(of_seeds) + of_images - interaction, of_images)
    parts = [(part, len(side) - 1) for part, side in zip(of_seeds, sides, strict=True)] + [(of_images, units - 1)]
    spread = sum(part**2 / freedom for part, freedom in parts if freedom > 0)
    return math.sqrt(variance), variance**2 / spread if spread > 0 else math.inf


def _terms(confusions: Confusions) -> Values:
    """(S,N,38): intersection and union per class, which add up over images; whole numbers below 2^53, so exact."""
    stacked = confusions if confusions.ndim == 4 else confusions[None]
    intersection = np.diagonal(stacked, axis1=2, axis2=3)
    union = stacked.sum(axis=2) + stacked.sum(axis=3) - intersection
    return np.concatenate([intersection, union], axis=2).astype(np.float64)


def _units(count: int, clusters: Clusters) -> tuple[Groups, Groups]:
    """(N,) the unit that is drawn with each image, numbered from 0, and (U,) the condition of each unit."""
    names = np.arange(count) if clusters.sequences is None else clusters.sequences
    strata = np.zeros(count, np.int64) if clusters.conditions is None else clusters.conditions
    # A sequence that has images of two conditions counts as two: conditions are drawn separately.
    pairs, places = np.unique(np.stack([strata, names], axis=1), axis=0, return_inverse=True)
    return places.reshape(-1), pairs[:, 0]


def _resamples(count: int, clusters: Clusters, seed: int) -> tuple[Values, int]:
    """(R,N) how often each image is drawn in each resample, and the number of units that could be drawn."""
    places, strata = _units(count, clusters)
    rng = random_generator("bootstrap", seed)
    drawn = np.zeros((RESAMPLES, len(strata)))
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        drawn[:, inside] = rng.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), RESAMPLES)
    return drawn[:, places], len(strata) - len(np.unique(strata)) + 1


def _class_iou(terms: Values) -> Values:
    """(...,38) summed terms -> (...,19) IoU; NaN for a class without union."""
    intersection, union = np.split(terms, 2, axis=-1)
    return np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0)


def _miou(terms: Values, observed: Values) -> Values:
    """(S,R,38) summed terms -> (S,R) mIoU over the observed classes; observed: (S,1,19) IoU of all images."""
    iou = _class_iou(terms)
    return _mean(np.where(np.isnan(iou), observed, iou))


def _mean(iou: Values) -> Values:
    """(...,19) -> (...) mean over the classes that have an IoU; NaN where none has."""
    present = ~np.isnan(iou)
    classes = present.sum(axis=-1)
    total = np.where(present, iou, 0.0).sum(axis=-1)
    return np.divide(total, classes, out=np.full(classes.shape, np.nan), where=classes > 0)


def _percentiles(values: Values) -> tuple[float, float]:
    """The middle 95% of the resamples that have a score."""
    scored = values[~np.isnan(values)]
    if not scored.size:
        return math.nan, math.nan
    low, high = np.quantile(scored, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _quantile(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def _tail(distance: float, error: float, freedom: float) -> float:
    """Chance of a t-distributed value above distance / error."""
    if math.isnan(distance) or math.isnan(error):
        return math.nan
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    from scipy.stats import t

    return float(t.sf(distance / error, freedom))
