"""Where the labeled images are: the `data` section."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Section
from pipeline.config.toytown import ToyTown


class Dataset(Section):
    """One labeled data set on disk.

    `layout` names the folder layout; `globs` is for data that no adapter was written for: `images` and `labels` are
    then glob patterns, relative to `root`, that give equally many files when both are sorted. `images` may be left
    out where only label maps are needed (generation). `ids` says what the label files' values mean: `train`
    (Cityscapes train ids), `cityscapes` (Cityscapes' 34 label ids) or an explicit table from file id to train id, in
    which an id that is not listed is an error, not a silent ignore. `take` keeps a part of the scenes, which are sorted
    by name: [0, 80] the first 80, [80, null] all after them.
    """

    name: str
    root: Path
    layout: Literal["gta", "cityscapes", "bdd100k", "mapillary", "acdc", "dark-zurich", "globs"]
    split: str = "val"
    images: str | None = None
    labels: str | None = None
    ids: Literal["train", "cityscapes"] | dict[int, int] | None = None
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
    generated: tuple[Path, ...] = ()

    @model_validator(mode="after")
    def _one_world(self) -> Self:
        if self.toytown is not None and (self.source is not None or self.targets):
            raise ValueError("'toytown' brings its own source and targets: remove either it or 'source' and 'targets'")
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError(f"target names must differ, got {names}")
        return self
