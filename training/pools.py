"""Labeled images by index: source scenes from their files, generated images from parquet data sets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.config.training import TrainingConfig
from pipeline.data.alignment_scores import read_scores
from pipeline.data.datasets import Scene, load_image
from pipeline.data.fingerprints import FileDigests
from pipeline.data.generated_rows import GeneratedDataSet, decode_image, decode_label, row_name
from pipeline.data.labels import IGNORE, load_label_map
from pipeline.data.resizing import Filter, cut, resized_image, resized_label
from pipeline.errors import UserError
from pipeline.requests import Box
from pipeline.seeding import random_generator
from pipeline.store.manifest import canonical_digest
from training.decoded import DecodedCopies
from training.image_copy import ImageCopy


class ImagePool(Protocol):
    """Labeled images by index. A crop is chosen by the label, before anything of the image is read."""

    def __len__(self) -> int: ...

    def label(self, index: int) -> np.ndarray:
        """(H,W) uint8 train ids. UserError, naming the file or row, if it cannot be read whole."""
        ...

    def image(self, index: int, box: Box) -> np.ndarray:
        """What the image shows in a box of the label: (height, width, 3) uint8. UserError as for labels."""
        ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The whole image (H,W,3) and its label (H,W)."""
        label = self.label(index)
        return self.image(index, Box(0, 0, *label.shape)), label


class RememberedPool(ImagePool):
    """A pool that reads everything once and keeps it. In another process it begins with nothing."""

    def __init__(self, pool: ImagePool) -> None:
        self.pool = pool
        self._pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.pool)

    def label(self, index: int) -> np.ndarray:
        return self.read(index)[1]

    def image(self, index: int, box: Box) -> np.ndarray:
        return cut(self.read(index)[0], box)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index not in self._pairs:
            self._pairs[index] = self.pool.read(index)
        return self._pairs[index]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pairs": {}}


class ScenePool(ImagePool):
    """Source scenes, resized by `how` to `size` (H,W) if one is given, to fit into it where they keep their ratio."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        size: tuple[int, int] | None,
        *,
        keep_ratio: bool = False,
        how: Filter = "antialiased",
        decoded: DecodedCopies | None = None,
    ) -> None:
        self.scenes = scenes
        self.size = size
        self.keep_ratio = keep_ratio
        self.how = how
        self.decoded = decoded

    @classmethod
    def of(cls, scenes: Sequence[Scene], config: TrainingConfig, decoded: DecodedCopies | None = None) -> "ScenePool":
        """Scenes at the size that the config trains at."""
        ratio, how = config.source_keep_ratio, config.source_filter
        return cls(scenes, config.source_size, keep_ratio=ratio, how=how, decoded=decoded)

    def __len__(self) -> int:
        return len(self.scenes)

    def label(self, index: int) -> np.ndarray:
        scene = self.scenes[index]
        label = self._decoded(scene.label, sorted(scene.ids.items()), lambda: load_label_map(scene.label, scene.ids))
        return resized_label(label, self._size(label), self.how)

    def image(self, index: int, box: Box) -> np.ndarray:
        scene = self.scenes[index]
        image = self._decoded(scene.image, "image", lambda: load_image(scene))
        return resized_image(image, self._size(image), self.how, box)

    def _decoded(self, file: Path | None, what: object, decode: Callable[[], np.ndarray]) -> np.ndarray:
        return decode() if self.decoded is None or file is None else self.decoded.read(file, what, decode)

    def _size(self, pixels: np.ndarray) -> tuple[int, int] | None:
        return fitting(pixels.shape[:2], self.size) if self.keep_ratio and self.size is not None else self.size


class GeneratedPool(ImagePool):
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
        if not any((self.label(index) != IGNORE).any() for index in range(len(self))):
            raise UserError(
                f"none of the {len(self)} labels of {', '.join(map(str, folders))} holds a pixel of a class: there is"
                " nothing to train on; wanted train ids 0 to 18"
            )

    def __len__(self) -> int:
        return len(self.names)

    def label(self, index: int) -> np.ndarray:
        _, label = self._copy.read(index)
        return resized_label(decode_label(label, row_name(*self.names[index])), self.size)

    def image(self, index: int, box: Box) -> np.ndarray:
        return resized_image(decode_image(*self._copy.read(index), row_name(*self.names[index])), self.size, box=box)


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
