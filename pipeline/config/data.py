"""Where the labeled images are: the `data` section."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.config.base import LocalPath, Section
from pipeline.config.toytown import ToyTown

LONGEST_NAME = 60
"""Characters of a data set's name: it becomes part of file names, and a column of tables."""
_BESIDE_LETTERS = " -_.()+"
_NUMBER = re.compile("-?(0|[1-9][0-9]*)")


def _checked_name(name: str) -> str:
    plain = all(character.isalnum() or character in _BESIDE_LETTERS for character in name)
    if not plain or not 0 < len(name) <= LONGEST_NAME or name != name.strip() or name.startswith("."):
        shown = repr(name) if len(name) <= LONGEST_NAME else f"{name[:20]!r}... ({len(name)} characters)"
        raise ValueError(
            f"{shown} becomes part of file names: wanted up to {LONGEST_NAME} letters, digits, blanks and -_.()+,"
            " without a dot or blank in front"
        )
    return name


def _below_root(pattern: str) -> str:
    parts = PurePosixPath(pattern).parts
    if not parts or pattern.startswith("/") or ".." in parts:
        raise ValueError(f"pattern {pattern!r} must be relative to 'root' and stay below it: set 'root' higher up")
    return pattern


def _numbers(ids: object) -> object:
    """YAML's yes is no 1; of texts (as in `--set data.source.ids.7=3`) each number has one spelling."""
    if isinstance(ids, dict):
        parts = [part for pair in ids.items() for part in pair]
        if wrong := [p for p in parts if isinstance(p, bool) or (isinstance(p, str) and not _NUMBER.fullmatch(p))]:
            raise ValueError(f"'ids' holds {wrong[0]!r:.40}: wanted a table from whole numbers to whole numbers")
    return ids


def _checked_ids(ids: dict[int, int]) -> dict[int, int]:
    if wrong := sorted(stored for stored in ids if not -1 <= stored <= 255):
        raise ValueError(f"file ids {wrong[:5]} do not occur in label maps: wanted 0 to 255, or -1 for a stored 255")
    if -1 in ids and ids.get(255, ids[-1]) != ids[-1]:
        raise ValueError(f"-1 and 255 are the same stored value, but become {ids[-1]} and {ids[255]}: leave one out")
    if wrong := sorted({train_id for train_id in ids.values() if not 0 <= train_id <= 18 and train_id != 255}):
        raise ValueError(f"'ids' maps to {wrong[:5]}, wanted train ids 0 to 18, or 255 for ignore")
    return ids


Pattern = Annotated[str, AfterValidator(_below_root)]
IdTable = Annotated[dict[int, int], BeforeValidator(_numbers), AfterValidator(_checked_ids)]


class Dataset(Section):
    """One labeled data set on disk.

    `layout` names the folder layout; `globs` is for data that no adapter was written for: `images` and `labels` are
    then glob patterns, relative to `root`. Image and label belong together where their names agree: in what both
    patterns leave open (`images/*.png` and `labels/*_mask.png`), or but for one constant part (`7.png` and
    `7_mask.png`). The ending fits without regard to case, hidden files are no data, links are followed. `images` may be
    left out where only label maps are needed (generation). `ids` says what the label files' values mean: `train`
    (Cityscapes train ids), `cityscapes` (Cityscapes' 34 label ids) or an explicit table from file id (0 to 255) to
    train id, in which an id that is not listed is an error, not a silent ignore. `take` keeps a part of the scenes,
    which are sorted by name: [0, 80] the first 80, [80, null] all after them. `name` becomes part of file names: up to
    60 letters, digits, blanks and -_.()+.
    """

    name: Annotated[str, AfterValidator(_checked_name)]
    root: LocalPath
    layout: Literal["gta", "cityscapes", "bdd100k", "mapillary", "acdc", "dark-zurich", "globs"]
    split: str = "val"
    images: Pattern | None = None
    labels: Pattern | None = None
    ids: Literal["train", "cityscapes"] | IdTable | None = None
    take: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(gt=0)] | None] = (0, None)

    @model_validator(mode="after")
    def _globs_are_complete(self) -> Self:
        if self.layout == "globs" and (self.labels is None or self.ids is None):
            raise ValueError("layout 'globs' needs 'labels' (a glob pattern) and 'ids' (train, cityscapes or a table)")
        if self.layout != "globs" and (self.images or self.labels or self.ids):
            raise ValueError(f"layout '{self.layout}' knows its own files: leave out 'images', 'labels' and 'ids'")
        return self


class DataConfig(Section):
    """The source domain that is trained on and the target domains that are only ever evaluated on.

    Either `toytown` (the embedded world is rendered and gives both), or `source` and `targets` on disk. `generated` are
    the folders of generated data sets (of `flexseg generate`) that methods train on beside what the `generation`
    section makes.
    """

    toytown: ToyTown | None = None
    source: Dataset | None = None
    targets: tuple[Dataset, ...] = ()
    generated: tuple[LocalPath, ...] = ()

    @model_validator(mode="after")
    def _one_world(self) -> Self:
        if self.toytown is not None and (self.source is not None or self.targets):
            raise ValueError("'toytown' brings its own source and targets: remove either it or 'source' and 'targets'")
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError(f"target names must differ, got {names}")
        return self

    @model_validator(mode="after")
    def _average_is_no_target(self) -> Self:
        if any(target.name == "average" for target in self.targets):
            raise ValueError("a target named 'average' would be taken for the mean over all targets: rename it")
        return self
