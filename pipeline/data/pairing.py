"""Which label belongs to which image, told from their names alone, never from their order.

What the patterns leave open is compared: `images/*.png` and `labels/*_mask.png` leave open the `7` of `7.png` and of
`7_mask.png`. Where no two of them are the same, one constant part is taken off each side (`7` and `7_mask`, `rgb_7` and
`gt_7`), the one that pairs the most files.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.data.trees import Match
from pipeline.errors import UserError

SAMPLED = 8
"""Images whose possible partners vote on the constant parts: enough that chance agreements lose."""


class Pairs(NamedTuple):
    """Image and label of each pair, and what has no partner."""

    pairs: list[tuple[Match, Match]]
    images: list[Match]
    labels: list[Match]


class _Constant(NamedTuple):
    """What is taken off the names of images and of labels: an end, or where `front`, a beginning."""

    front: bool
    image: str
    label: str

    def stem(self, name: str, constant: str) -> str | None:
        """The name without its constant part; None if it has not that part."""
        if self.front:
            return name[len(constant) :] if name.startswith(constant) else None
        return name[: len(name) - len(constant)] if name.endswith(constant) else None

    def partner(self, image: str) -> str | None:
        """The label's name that belongs to an image's; None if that has not its constant part."""
        stem = self.stem(image, self.image)
        if stem is None:
            return None
        return self.label + stem if self.front else stem + self.label


def paired(images: Sequence[Match], labels: Sequence[Match]) -> Pairs:
    """Pairs in the order of the images. UserError where two files of one side have the same name."""
    constant = _Constant(False, "", "")
    if not {image.name for image in images} & {label.name for label in labels}:
        constant = _constant([image.name for image in images], [label.name for label in labels]) or constant
    stems = _by_stem(images, constant, constant.image), _by_stem(labels, constant, constant.label)
    pairs = [(image, stems[1][stem]) for stem, image in stems[0].items() if stem in stems[1]]
    taken = {match.path for pair in pairs for match in pair}
    alone = [[match for match in side if match.path not in taken] for side in (images, labels)]
    return Pairs(pairs, *alone)


def _by_stem(matches: Sequence[Match], constant: _Constant, part: str) -> dict[str, Match]:
    named: dict[str, Match] = {}
    for match in matches:
        stem = constant.stem(match.name, part)
        if stem is None:
            continue
        if stem in named:
            raise UserError(f"{named[stem].path} and {match.path} have the same name but for what the pattern fixes")
        named[stem] = match
    return named


def _constant(images: Sequence[str], labels: Sequence[str]) -> _Constant | None:
    """The constant parts that a sample of the images votes for; the shortest of those with the most votes. UserError
    where others have as many, and pair otherwise."""
    votes: Counter[_Constant] = Counter()
    sample = images[:: max(1, len(images) // SAMPLED)]
    for image in sample:
        votes.update({constant for label in labels for constant in _possible(image, label)})
    # What only one image votes for could be its own number: `img8left` does not belong to `img9left`.
    certain = [found for found in votes if votes[found] > 1 or not re.search(r"\d", found.image + found.label)]
    if not certain:
        return None
    best = max(certain, key=lambda found: (votes[found], -len(found.image) - len(found.label), found))
    there = set(labels)
    for rival in (found for found in certain if votes[found] == votes[best]):
        for image in sample:
            pair = {label for label in (best.partner(image), rival.partner(image)) if label in there}
            if len(pair) > 1:
                raise UserError(
                    f"{image!r} of 'images' could belong to {' and to '.join(map(repr, sorted(pair)))} of 'labels', and"
                    " so could others: write what all of these names share into the patterns"
                )
    return best


def _possible(image: str, label: str) -> list[_Constant]:
    """How these two names could be those of a pair: what is left of them once their common beginning, or end, is gone.
    A number or a word is never cut in two, `1` does not belong to `10_mask`; and a number is no constant part, `a_1`
    does not belong to `a_2`."""
    found = []
    for front in (False, True):
        first, second = (image[::-1], label[::-1]) if front else (image, label)
        common = _common(first, second)
        while common and not (_breaks(first, common) and _breaks(second, common)):
            common -= 1
        if common and any(character.isalnum() for character in first[:common]):
            parts = [name[: len(name) - common] if front else name[common:] for name in (image, label)]
            if not any(token.isdigit() for part in parts for token in re.split(r"[\W_]+", part)):
                found.append(_Constant(front, *parts))
    return found


def _common(first: str, second: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((k for k, (one, other) in pairs if one != other), min(len(first), len(second)))


def _breaks(name: str, at: int) -> bool:
    """Whether a word or number ends at this place of the name."""
    if at == len(name):
        return True
    before, after = name[at - 1], name[at]
    return not ((before.isdigit() and after.isdigit()) or (before.isalpha() and after.isalpha()))
