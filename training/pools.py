"""Labeled images by index: source scenes from their files, generated images from parquet data sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from pipeline.config.training import TrainingConfig
from pipeline.data.datasets import Scene, load_image, load_label
from pipeline.data.labels import IGNORE, NUM_CLASSES
from pipeline.errors import UserError
from pipeline.seeding import generator
from pipeline.store.manifest import canonical_digest

if TYPE_CHECKING:
    from datasets import Dataset


class Pool(Protocol):
    """Labeled images by index; `read` gives (H,W,3) uint8 and (H,W) uint8 train ids."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...


class ScenePool:
    """Source scenes, resized to `size` (H,W) if one is given."""

    def __init__(self, scenes: Sequence[Scene], size: tuple[int, int] | None) -> None:
        self.scenes = scenes
        self.size = size

    def __len__(self) -> int:
        return len(self.scenes)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of scene `index`. UserError, naming the file, if one cannot be read whole."""
        return _resized(*load_scene(self.scenes[index]), self.size)


class GeneratedPool:
    """The images of generated data sets, without those painted from `excluded` scenes and those that the config's
    `minimum_alignment` and `generated_limit` leave out, resized to its `generated_size`.

    folders: each a data set with `data/*.parquet`; cache: where `datasets` keeps its memory-mapped copies.
    """

    def __init__(
        self, folders: Sequence[Path], config: TrainingConfig, *, excluded: frozenset[str], cache: Path
    ) -> None:
        import datasets  # seconds to import

        datasets.disable_progress_bars()  # of the moment that opening takes
        self.size = config.generated_size
        self.names: list[tuple[Path, int]] = []
        """Data set and row of each image."""
        parts = []
        for folder in folders:
            rows = datasets.load_dataset("parquet", data_files=_shards(folder), split="train", cache_dir=str(cache))
            kept = _kept(folder, rows, config.minimum_alignment, excluded)
            parts.append(rows.select(kept).select_columns(["image", "label"]))
            self.names += [(folder, row) for row in kept]
        self.rows = datasets.concatenate_datasets(parts)
        if config.generated_limit is not None:
            chosen = _chosen(len(self.names), config.generated_limit)
            self.rows, self.names = self.rows.select(chosen), [self.names[index] for index in chosen]
        if not self.names:
            raise UserError(
                f"no generated image is left of {', '.join(map(str, folders))}: all were painted from held-out scenes"
                " or fall below training.minimum_alignment; lower it, or generate more"
            )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and label number `index`. UserError, naming data set and row, if they cannot be decoded or used."""
        folder, row_number = self.names[index]
        try:
            row = self.rows[index]
            image, label = np.asarray(row["image"].convert("RGB")), np.asarray(row["label"])
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on bad files
            reason = " ".join(str(error).split())
            raise UserError(
                f"{folder}: row {row_number} cannot be decoded ({reason}); generate the data set again"
            ) from error
        if image.shape[:2] != label.shape or ((label >= NUM_CLASSES) & (label != IGNORE)).any():
            raise UserError(
                f"{folder}: row {row_number} has an image of {image.shape[:2]} and a label of {label.shape} rows and"
                f" columns with values up to {label[label != IGNORE].max(initial=0)}; wanted equal sizes and train ids"
                " 0 to 18 or 255"
            )
        return _resized(image, label, self.size)


def data_set_fingerprint(folder: Path) -> str:
    """Hex sha256 of names, sizes and modification times of a generated data set's files. UserError if it is none."""
    status = {Path(shard).name: Path(shard).stat() for shard in _shards(folder)}
    return canonical_digest([[name, file.st_size, file.st_mtime_ns] for name, file in status.items()])


def load_scene(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """(H,W,3) uint8 and (H,W) uint8 of a scene. UserError without an image or with unequal sizes."""
    if scene.image is None:
        raise UserError(f"scene {scene.id} has no image: training needs a source with images, not label maps alone")
    image, label = load_image(scene.image), load_label(scene.label, scene.ids)
    if image.shape[:2] != label.shape:
        raise UserError(
            f"sizes differ: image {scene.image} has {image.shape[:2]} rows and columns, its label {scene.label}"
            f" {label.shape}; mend or remove the pair"
        )
    return image, label


def _shards(folder: Path) -> list[str]:
    """The data set's files, whole and with the columns that training reads."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    shards = sorted((folder / "data").glob("*.parquet"))
    if not shards:
        raise UserError(f"{folder} holds no data/*.parquet: give the folder of a generated data set")
    for shard in shards:
        try:
            missing = {"image", "label", "source"} - set(read_schema(shard).names)
        except (ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{shard} cannot be read ({reason}); it may be truncated: get the file again") from error
        if missing:
            raise UserError(f"{shard} lacks the columns {sorted(missing)}: wanted a data set of flexseg generate")
    return [str(shard) for shard in shards]


def _kept(folder: Path, rows: "Dataset", minimum: float, excluded: frozenset[str]) -> list[int]:
    """Rows that were not painted from excluded scenes and are aligned well enough."""
    kept = [row for row, source in enumerate(rows["source"]) if source not in excluded]
    if minimum == 0:
        return kept
    if "alignment" not in rows.column_names:
        raise UserError(
            f"{folder} has no column 'alignment', so training.minimum_alignment {minimum} cannot act: set it to 0"
        )
    scores = list(rows["alignment"])
    return [row for row in kept if scores[row] >= minimum]


def _chosen(available: int, limit: int) -> list[int]:
    """At most `limit` images, in their order. A larger limit adds to a smaller one's, the same for all seeds."""
    return sorted(generator("generated limit").permutation(available)[:limit].tolist())


def _resized(image: np.ndarray, label: np.ndarray, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Image (bilinear) and label (nearest) at `size` (H,W), as they are if it is None."""
    if size is None:
        return image, label
    width_height = size[::-1]
    resized = Image.fromarray(image).resize(width_height, Image.Resampling.BILINEAR)
    return np.asarray(resized), np.asarray(Image.fromarray(label).resize(width_height, Image.Resampling.NEAREST))
