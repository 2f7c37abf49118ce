"""Which scenes a report shows: the first ones, the worst, and those where two methods differ most."""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from evaluation.counts import read_image_counts
from evaluation.schema import prediction_file

ImageScores = Mapping[str, Mapping[str, float]]
"""Domain -> scene id -> share of its labeled pixels that are right."""

SCENES = 6
"""Scenes of one group, spread over the domains as far as the group is about each domain."""
CHANGED = 3
"""Scenes that changed most, for better and for worse."""


class DomainScene(NamedTuple):
    """One scene of one domain."""

    domain: str
    id: str


class SceneGroup(NamedTuple):
    """Scenes that are shown for one reason, which `about` gives in one sentence."""

    title: str
    about: str
    places: Sequence[DomainScene]


def image_scores(evaluation: Path, domains: Iterable[str]) -> ImageScores:
    """The scores of all images whose prediction an evaluation's folder holds, in the order of the scenes."""
    scores: dict[str, dict[str, float]] = {}
    for domain in domains:
        images = read_image_counts(evaluation, domain)
        scores[domain] = {
            str(name): int(confusion.trace()) / pixels
            for name, confusion in zip(images.ids, images.confusion, strict=True)
            if (pixels := int(confusion.sum())) and prediction_file(evaluation, domain, str(name)).is_file()
        }
    return scores


def scene_groups(scores: Mapping[str, ImageScores], baseline: str, contender: str | None) -> list[SceneGroup]:
    """The groups of a report, from the scores that the methods give single images.

    Only scenes that every method has are chosen. Without a contender the worst scenes are the baseline's.
    """
    method = contender or baseline
    compared: dict[str, dict[str, float]] = {}
    for domain, images in scores[method].items():
        shared = {name: right for name, right in images.items() if all(name in s[domain] for s in scores.values())}
        if shared:
            compared[domain] = shared
    groups = [_first(compared), _worst(compared, method)]
    if contender is not None:
        groups += _changed(compared, scores[baseline], baseline, contender)
    return [group for group in groups if group.places]


def pictured(scores: Mapping[str, ImageScores]) -> int:
    """How many scenes can be shown: those that every method has a score and a picture of."""
    of_methods = [
        {DomainScene(d, name) for d, images in method.items() for name in images} for method in scores.values()
    ]
    return len(set.intersection(*of_methods))


def _first(compared: ImageScores) -> SceneGroup:
    each = max(1, SCENES // max(1, len(compared)))
    places = [DomainScene(domain, name) for domain, images in compared.items() for name in list(images)[:each]]
    return SceneGroup("The first scenes", "The first of each domain, not picked by hand.", places[:SCENES])


def _worst(compared: ImageScores, method: str) -> SceneGroup:
    each = max(1, SCENES // max(1, len(compared)))
    worst = [(right, DomainScene(d, name)) for d, images in compared.items() for name, right in _lowest(images, each)]
    about = f"Where {method} gets the smallest share of pixels right, in each domain; the worst first."
    return SceneGroup("The worst scenes", about, [place for _, place in sorted(worst)][:SCENES])


def _lowest(images: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    return sorted(images.items(), key=itemgetter(1))[:count]


def _changed(compared: ImageScores, before: ImageScores, baseline: str, contender: str) -> list[SceneGroup]:
    gains = {
        DomainScene(domain, name): right - before[domain][name]
        for domain, images in compared.items()
        for name, right in images.items()
    }
    ranked = sorted(gains, key=gains.__getitem__)
    lost = [place for place in ranked[:CHANGED] if gains[place] < 0]
    won = [place for place in reversed(ranked[-CHANGED:]) if gains[place] > 0]
    told = f"Of all domains’ scenes those where {contender} %s most against {baseline}, by the share of pixels right."
    return [
        SceneGroup("Most improved", told % "gains", won),
        SceneGroup("Most worsened", told % "loses", lost),
    ]
