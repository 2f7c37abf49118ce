"""Two models on the same images: is one really better, where, and on which scenes did it change most?"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.bootstrap import LEVEL, Clusters, Difference, holm, joint, paired_difference
from evaluation.counts import ImageCounts, ratio, read_image_counts
from evaluation.schema import read_evaluation
from evaluation.sequences import sequences
from pipeline.errors import UserError


class Change(NamedTuple):
    """One scene under both models: the share of its labeled pixels that are right, averaged over seeds."""

    id: str
    condition: str
    before: float
    after: float

    @property
    def gain(self) -> float:
        """After minus before."""
        return self.after - self.before


class Comparison(NamedTuple):
    """Other against baseline: per domain, in the mean over these domains, and per scene, most changed first."""

    domains: dict[str, Difference]
    mean: Difference
    changes: dict[str, list[Change]]

    @property
    def corrected(self) -> dict[str, Difference]:
        """The domains with p-values that are corrected for their number (Holm); the mean is the primary comparison."""
        p_values = holm([difference.p for difference in self.domains.values()])
        return {name: d._replace(p=p) for (name, d), p in zip(self.domains.items(), p_values, strict=True)}


def compare(baseline: Sequence[Path], other: Sequence[Path], *, seed: int = 0) -> Comparison:
    """Compares evaluation folders; several on a side are the training seeds of one method.

    Scenes that only one side scored are left out. UserError where no domain or no scene is common, or where the two
    sides were not scored against the same label maps.
    """
    folders = [*baseline, *other]
    known = [_domains(folder) for folder in folders]
    names = [name for name in known[0] if all(name in domains for domains in known)]
    if not names:
        raise UserError(f"{folders[0]} and {folders[-1]} have no domain in common; evaluate both on the same targets")
    aligned = {name: _aligned(folders, name) for name in names}
    sides = {name: _sides(images, len(baseline)) for name, images in aligned.items()}
    how = {name: clusters(images[0]) for name, images in aligned.items()}
    return Comparison(
        {name: paired_difference(*pair, how[name], seed=seed) for name, pair in sides.items()},
        joint(list(sides.values()), list(how.values()), seed=seed),
        {name: _changes(images, len(baseline)) for name, images in aligned.items()},
    )


def regressions(comparison: Comparison, max_drop: float) -> list[str]:
    """One line per domain, and for the mean, on which the other model is worse by more than `max_drop` points of mIoU.

    That is what is tested: the upper end of the difference's 95% interval lies below -max_drop, and still does when
    all places are corrected together (Holm), so that a gate over many targets does not close by chance.
    """
    places = {**comparison.domains, "mean over domains": comparison.mean}
    p_values = holm([difference.p_fell(max_drop / 100) for difference in places.values()])
    return [
        f"{place}: mIoU fell by {-100 * d.difference:.2f} points (95% interval {100 * d.low:+.2f} to"
        f" {100 * d.high:+.2f}), which is more than the {max_drop:g} that are allowed (p = {p:.2g} over all"
        f" {len(places)} places)"
        for (place, d), p in zip(places.items(), p_values, strict=True)
        if p < (1 - LEVEL) / 2
    ]


def clusters(images: ImageCounts) -> Clusters:
    """How chance draws these images: by the sequences that their ids name, within each condition."""
    _, conditions = np.unique(images.conditions, return_inverse=True)
    return Clusters(sequences(images.ids.tolist()), np.asarray(conditions, np.int64).reshape(-1))


def _domains(folder: Path) -> list[str]:
    """The domains that were scored."""
    return [name for name, scores in read_evaluation(folder).domains.items() if scores.images]


def _aligned(folders: Sequence[Path], domain: str) -> list[ImageCounts]:
    """Per folder, the images that all have, in one order."""
    images = [read_image_counts(folder, domain) for folder in folders]
    common = set.intersection(*(set(one.ids.tolist()) for one in images))
    if not common:
        raise UserError(f"{folders[0]} and {folders[-1]} have no scene of {domain!r} in common; evaluate both anew")
    order = [scene for scene in images[0].ids.tolist() if scene in common]
    rows = [{scene: row for row, scene in enumerate(one.ids.tolist())} for one in images]
    aligned = [one.take(np.array([where[scene] for scene in order])) for one, where in zip(images, rows, strict=True)]
    truths = [one.confusion.sum(axis=2) for one in aligned]
    for folder, truth in zip(folders, truths, strict=True):
        differ = (truth != truths[0]).any(axis=1)
        if differ.any():
            raise UserError(
                f"{domain}: {folders[0]} and {folder} were scored against different label maps, for instance of scene"
                f" {order[int(differ.argmax())]}; evaluate both on the same data"
            )
    return aligned


def _sides(images: Sequence[ImageCounts], first: int) -> tuple[np.ndarray, np.ndarray]:
    """(S,N,19,19) of either side."""
    confusions = np.stack([one.confusion for one in images])
    return confusions[:first], confusions[first:]


def _changes(images: Sequence[ImageCounts], first: int) -> list[Change]:
    """Every scene with labeled pixels, the most changed first."""
    before, after = _sides(images, first)
    pixels = before[0].sum(axis=(1, 2))
    right = [np.diagonal(side, axis1=2, axis2=3).sum(axis=2).mean(axis=0) for side in (before, after)]
    changes = [
        Change(str(scene), str(condition), ratio(one, whole), ratio(two, whole))
        for scene, condition, whole, one, two in zip(images[0].ids, images[0].conditions, pixels, *right, strict=True)
        if whole
    ]
    return sorted(changes, key=lambda change: -abs(change.gain))
