"""Labeled images by index: source scenes from their files, generated images from parquet data sets."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.config.training import TrainingConfig
from pipeline.data.alignment_scores import read_scores
from pipeline.data.datasets import Scene, load_pair
from pipeline.data.fingerprints import FileDigests
from pipeline.data.generated_rows import GeneratedDataSet, decode_pair, row_name
from pipeline.data.labels import IGNORE
from pipeline.data.resizing import Filter, resized_pair
from pipeline.errors import UserError
from pipeline.seeding import random_generator
from pipeline.store.manifest import canonical_digest
from training.image_copy import ImageCopy


class ImagePool(Protocol):
    """Labeled images by index; `read` gives (H,W,3) uint8 and (H,W) uint8 train ids."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...


class ScenePool:
    """Source scenes, resized by `how` to `size` (H,W) if one is given, to fit into it where they keep their ratio."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        size: tuple[int, int] | None,
        *,
        keep_ratio: bool = False,
        how: Filter = "antialiased",
    ) -> None:
        self.scenes = scenes
        self.size = size
        self.keep_ratio = keep_ratio
        self.how = how

    @classmethod
    def of(cls, scenes: Sequence[Scene], config: TrainingConfig) -> "ScenePool":
        """Scenes at the size that the config trains at."""
        return cls(scenes, config.source_size, keep_ratio=config.source_keep_ratio, how=config.source_filter)

    def __len__(self) -> int:
        return len(self.scenes)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of scene `index`. UserError, naming the file, if one cannot be read whole."""
        image, label = load_pair(self.scenes[index])
        size = fitting(label.shape, self.size) if self.keep_ratio and self.size is not None else self.size
        return resized_pair(image, label, size, self.how)


class GeneratedPool:
    """The images of generated data sets, without those painted from `excluded` scenes and those that the config's
    `minimum_alignment` and `generated_limit` leave out, resized to its `generated_size`.

    folders: each a data set with `data/*.parquet`; copy: a file for the memory-mapped copy of their pictures, which one
    process of a training writes and the others, coming later, only read; scored: the folders of the `alignment`
    artifacts of those data sets whose scores are not in columns of their own.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        config: TrainingConfig,
        *,
        excluded: frozenset[str],
        copy: Path,
        write: bool = True,
        scored: Mapping[Path, Path] = {},
    ) -> None:
        self.size = config.generated_size
        data_sets = [GeneratedDataSet(folder) for folder in folders]
        chosen = [(place, row) for place, data in enumerate(data_sets) for row in _kept(data, config, excluded, scored)]
        if config.generated_limit is not None:
            chosen = [chosen[index] for index in _chosen(len(chosen), config.generated_limit)]
        if not chosen:
            raise UserError(
                f"no generated image is left of {', '.join(map(str, folders))}: they have no rows, were painted from"
                " held-out scenes or fall below training.minimum_alignment; lower it, or generate more"
            )
        self.names = [(folders[place], row) for place, row in chosen]
        """Data set and row of each image."""
        self._copy = ImageCopy(copy)
        if write:
            self._copy.write(_pictures(data_sets, set(chosen)))
        # Usually the first one is: the others are read, and named where they are broken, when they are drawn.
        if not any((self.read(index)[1] != IGNORE).any() for index in range(len(self))):
            raise UserError(
                f"none of the {len(self)} labels of {', '.join(map(str, folders))} holds a pixel of a class: there is"
                " nothing to train on; wanted train ids 0 to 18"
            )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and label number `index`. UserError, naming data set and row, if they cannot be decoded or used."""
        return resized_pair(*decode_pair(*self._copy.read(index), row_name(*self.names[index])), self.size)


def data_set_fingerprint(folder: Path, digests: FileDigests) -> str:
    """Hex sha256 of a generated data set's files, by their names and content. UserError if it is none."""
    files = GeneratedDataSet(folder).files
    content = digests.of(f"generated {folder}", files)
    return canonical_digest([[file.name, content[file]] for file in files])


def _kept(
    data: GeneratedDataSet, config: TrainingConfig, excluded: frozenset[str], scored: Mapping[Path, Path]
) -> list[int]:
    """Rows that were not painted from excluded scenes and are aligned well enough."""
    kept = [row for row, source in enumerate(data.sources()) if source not in excluded]
    if config.minimum_alignment == 0:
        return kept
    place = scored.get(data.folder)
    scores = data.alignments() if place is None else read_scores(data.folder, place)["alignment"]
    return [row for row in kept if scores[row] >= config.minimum_alignment]


def _pictures(data_sets: Sequence[GeneratedDataSet], chosen: set[tuple[int, int]]) -> Iterator[tuple[bytes, bytes]]:
    """Image and label files of the chosen (data set, row), in their order."""
    for place, data in enumerate(data_sets):
        for row in data.rows():
            if (place, row.number) in chosen:
                yield row.image, row.label


def _chosen(available: int, limit: int) -> list[int]:
    """At most `limit` images, in their order. A larger limit adds to a smaller one's, the same for all seeds."""
    return sorted(random_generator("generated limit").permutation(available)[:limit].tolist())


def fitting(size: tuple[int, ...], limit: tuple[int, int]) -> tuple[int, int]:
    """(H,W) of the largest image with the ratio of `size` whose longer and shorter side fit into those of `limit`,
    rounded half up: mmcv's rule, by which the released code trains."""
    scale = min(max(limit) / max(size), min(limit) / min(size))
    height, width = (int(side * scale + 0.5) for side in size)
    return height, width
