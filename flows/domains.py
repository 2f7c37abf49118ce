"""A data set as a run sees it: its scenes, the keys that stand for its content, and what must be said about it."""

import sys
from collections.abc import Callable
from functools import cache, cached_property

from pipeline.config.data import Dataset
from pipeline.data.datasets import Scene, check_pair, list_scenes, pair_size, usable_scenes
from pipeline.data.fingerprints import FileDigests, fingerprint, labels_fingerprint
from pipeline.errors import UserError
from pipeline.work.threads import in_order


class Domain:
    """A data set with its scenes, which are looked for when they are first wanted, and the keys of its content.

    Whatever depends on label maps alone (painting) has `labels_key` in its own key, whatever depends on photographs too
    has `key`. Where `key` is given (toy town, whose content follows from its config), no file is read for either.
    """

    def __init__(
        self, name: str, find: Callable[[], list[Scene]], digests: FileDigests, key: str | None = None
    ) -> None:
        self.name = name
        self._find, self._digests, self._given = find, digests, key

    @cached_property
    def scenes(self) -> list[Scene]:
        """Sorted by id. UserError where they cannot be found, see `pipeline.data.datasets.find_scenes`."""
        return self._find()

    @cached_property
    def labels_key(self) -> str:
        """Stands for the label maps: their content, names and id tables. Reads those that are not known yet."""
        return self._given or labels_fingerprint(self.name, self.scenes, self._digests)

    @cached_property
    def key(self) -> str:
        """Stands for label maps and photographs. Reads those that are not known yet."""
        return self._given or fingerprint(self.labels_key, self.name, self.scenes, self._digests)

    @cached_property
    def sizes(self) -> list[tuple[int, int] | None]:
        """(H, W) px of each scene, by its headers; None where image and label differ."""
        return list(in_order(pair_size, self.scenes, ahead=64, threads=16))

    def paired_rows(self) -> list[int]:
        """Places in `scenes` of those whose image and label have one size. UserError if none has."""
        rows = [row for row, size in enumerate(self.sizes) if size is not None]
        if not rows:
            check_pair(self.scenes[0])
        return rows

    def check_crop(self, rows: list[int], crop: tuple[int, int], size: tuple[int, int] | None) -> None:
        """UserError, naming the first image, where a crop of (H, W) px does not fit into one that is trained on.

        `size` is what all of them are resized to, None where they are not.
        """
        for row in rows:
            height, width = size or self.sizes[row] or crop
            if height < crop[0] or width < crop[1]:
                what = f"resized to {width}x{height}" if size else f"{width}x{height}"
                raise UserError(
                    f"{self.scenes[row].image} is {what} px, smaller than training.crop of {crop[1]}x{crop[0]} px:"
                    " lower training.crop, set training.source_size, or remove the image"
                )


def scenes_of(dataset: Dataset, *, incomplete: bool) -> list[Scene]:
    """The data set's scenes; where some of its split are missing, that is said, once, on stderr. See `find_scenes`."""
    listing = list_scenes(dataset)
    if listing.published is not None and listing.found < listing.published:
        there = f"{listing.found:,} of the {listing.published:,} scenes of this split are there"
        say(f"{dataset.name}: incomplete, {there}")
    return usable_scenes(dataset, listing, incomplete=incomplete)


@cache
def say(line: str) -> None:
    """Prints a line that is no error on stderr; the same line only once in a process, whoever says it again."""
    print(f"note: {line}", file=sys.stderr)
