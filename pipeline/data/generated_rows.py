"""The rows of a generated data set, which somebody else may have made: bytes are decoded, nothing else is followed.

A data set is a folder with `data/*.parquet` in the columns that `datasets` writes for images: `image` and `label` hold
the bytes of picture files (PNG, JPEG or WebP; a label is a PNG of train ids), `source` says which label map it was
painted from, `alignment` may score it. `datasets` itself would open whatever the cell's `path` names (another file, a
pipe, an address on the network) where the bytes are missing, and reads the folder's own path as a pattern; here a path
is at most a name, and a folder is opened as it is spelled.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.data.image_files import PILLOW_ERRORS
from pipeline.data.labels import IGNORE, NUM_CLASSES
from pipeline.data.parquet_files import arrow_errors, check_claims, opened, rows_at_once
from pipeline.errors import UserError, one_line
from pipeline.store.manifest import MANIFEST, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("image", "label", "source", "alignment")
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
LABEL_FORMATS = ("PNG",)
MOST_PX = 2**26
"""px of a picture: 18 times a frame of 2560x1408. A small file can claim, and make Pillow allocate, far more."""
ROWS_AT_ONCE = 16
"""Rows that are held in memory while a data set is gone through, fewer where they could be large."""
MOST_CHARACTERS = 4096
"""The name of a label map may have so many."""


class GeneratedRow(NamedTuple):
    """One image of a data set, not yet decoded. The names are only names: whoever makes files of them checks them."""

    number: int
    """Its place in the data set, counted over all its files in their order."""
    image: bytes
    label: bytes
    image_name: str | None
    label_name: str | None


class GeneratedDataSet:
    """A generated data set whose files and columns were found to be right. No row is read before it is asked for.

    UserError: no files, a file that the folder's manifest does not list or that it lists and that is not there,
    something that is no regular parquet file, missing columns, columns of other types.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = data_files(folder)
        self.counts = [self._checked_count(file) for file in self.files]
        """Images in each file."""
        self.has_alignment = all(self._has(file, "alignment") for file in self.files)

    def __len__(self) -> int:
        return sum(self.counts)

    def sources(self) -> list[str]:
        """Which label map each image was painted from."""
        return [str(source) for source in self._values("source")]

    def alignments(self) -> np.ndarray:
        """(N,) float64 scores. UserError without the column, and where a row has no score."""
        if not self.has_alignment:
            raise UserError(f"{self.folder} has no column 'alignment' to filter by: do without a minimum alignment")
        scores = np.array(self._values("alignment"), np.float64)
        if len(wrong := np.flatnonzero(~np.isfinite(scores))):
            raise UserError(
                f"{row_name(self.folder, int(wrong[0]))} has the alignment {scores[wrong[0]]}: wanted a finite number"
            )
        return scores

    def rows(self) -> Iterator[GeneratedRow]:
        """All rows in order. UserError, naming the row, where a cell holds no bytes."""
        first = 0
        for file, count in zip(self.files, self.counts, strict=True):
            yield from rows_of(file, self.folder, first)
            first += count

    def decoded(self, row: GeneratedRow) -> tuple[np.ndarray, np.ndarray]:
        """Its image and label; see `decode_pair`."""
        return decode_pair(row.image, row.label, row_name(self.folder, row.number))

    def _values(self, column: str) -> list[object]:
        values: list[object] = []
        for file in self.files:
            with arrow_errors(file), opened(file) as table:
                for batch in table.iter_batches(rows_at_once(table, [column], most=2**16), columns=[column]):
                    values += batch.column(column).to_pylist()
                    if long := [
                        v for v in values[-batch.num_rows :] if isinstance(v, str) and len(v) > MOST_CHARACTERS
                    ]:
                        raise UserError(f"{file} has a {column!r} of {len(long[0]):,} characters: wanted a short name")
        if None in values:
            raise UserError(f"{row_name(self.folder, values.index(None))} has no {column!r}: wanted one in every row")
        return values

    def _has(self, file: Path, column: str) -> bool:
        with arrow_errors(file), opened(file) as table:
            return column in table.schema_arrow.names

    def _checked_count(self, file: Path) -> int:
        """How many rows the file has. UserError where its columns are not those of a generated data set."""
        with arrow_errors(file), opened(file) as table:
            schema, metadata = table.schema_arrow, table.metadata
            check_claims(file, metadata, COLUMNS)
        _check_schema(file, schema)
        return int(metadata.num_rows)


def rows_of(file: Path, place: Path, first: int = 0) -> Iterator[GeneratedRow]:
    """The rows of one file, numbered from `first`; errors name them as rows of `place`."""
    with arrow_errors(file), opened(file) as table:
        number = first
        columns = ["image", "label"]
        for batch in table.iter_batches(rows_at_once(table, columns, most=ROWS_AT_ONCE), columns=columns):
            pictures, labels = (_cells(batch.column(name)) for name in ("image", "label"))
            for (image, image_name), (label, label_name) in zip(pictures, labels, strict=True):
                if image is None or label is None:
                    what = "image" if image is None else "label"
                    raise UserError(
                        f"{row_name(place, number)} holds no bytes of its {what}: a path or an address in its place is"
                        " never followed, embed the picture's bytes"
                    )
                yield GeneratedRow(number, image, label, image_name, label_name)
                number += 1


def data_files(folder: Path) -> list[Path]:
    """The parquet files of a generated data set, by name. UserError where there is none, and where the folder's
    manifest tells of other files: what was added to a finished data set later does not belong to it."""
    try:
        found = sorted((folder / "data").iterdir())
    except OSError:
        found = []
    shards = [file for file in found if file.suffix == ".parquet" and not file.name.startswith(".")]
    if not shards:
        raise UserError(f"{folder} holds no data/*.parquet: give the folder of a generated data set")
    for shard in shards:
        if not shard.is_file():  # a link to a file is one
            raise UserError(f"{shard} is no regular file: remove it, or get the data set again")
    if (folder / MANIFEST).is_file():
        _check_listed(folder, {f"data/{shard.name}" for shard in shards})
    return shards


def decode_pair(image: bytes, label: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Two picture files -> image (H,W,3) uint8 RGB and label (H,W) uint8 train ids.

    UserError, which begins with `where`: bytes that are no such pictures, whole and of at most `MOST_PX` px; a label
    whose stored values are not 8 bits each; sizes that differ; values that are no train ids.
    """
    return decode_image(image, label, where), decode_label(label, where)


def decode_image(image: bytes, label: bytes, where: str) -> np.ndarray:
    """The image of a pair; of its label only the size is read. UserError as in `decode_pair`."""
    picture = _image(image, f"{where}: its image")
    with _picture(label, LABEL_FORMATS, f"{where}: its label") as ids:
        size = ids.height, ids.width
    if picture.shape[:2] != size:
        raise UserError(
            f"{where} has an image of {picture.shape[:2]} and a label of {size} rows and columns: wanted equal sizes"
        )
    return picture


def decode_label(label: bytes, where: str) -> np.ndarray:
    """The label of a pair. UserError as in `decode_pair`."""
    ids = _label(label, f"{where}: its label")
    if ((ids >= NUM_CLASSES) & (ids != IGNORE)).any():
        most = ids[ids != IGNORE].max(initial=0)
        raise UserError(f"{where} has a label with values up to {most}: wanted train ids 0 to 18 or 255")
    return ids


def row_name(folder: Path, number: int) -> str:
    """How errors name a row."""
    return f"{folder}: row {number}"


def _image(content: bytes, where: str) -> np.ndarray:
    with _picture(content, PICTURE_FORMATS, where) as picture:
        deep = picture.format == "PNG" and content[24] > 8  # of 16-bit colors Pillow keeps a half without a word
        if deep or picture.mode not in ("RGB", "RGBA", "L", "LA", "P"):
            depth = " of 16 bits" if deep else ""
            raise UserError(f"{where} has Pillow's mode {picture.mode!r}{depth}: wanted 8-bit color or gray")
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def _label(content: bytes, where: str) -> np.ndarray:
    with _picture(content, LABEL_FORMATS, where) as picture:
        header = content[12:16] == b"IHDR"
        # Pillow stretches gray of 1, 2 and 4 bits over 0 to 255; of a palette it gives the stored indices.
        stored = picture.mode == "P" or (picture.mode == "L" and content[24] == 8)
        if not header or not stored:
            raise UserError(f"{where} is no PNG of 8-bit gray or palette (Pillow's mode {picture.mode!r})")
        return np.asarray(picture)


@contextmanager
def _picture(content: bytes, formats: tuple[str, ...], where: str) -> Iterator[Image.Image]:
    """The picture in `content`, its header read; errors of whatever reads its pixels within the context are named."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            picture = Image.open(io.BytesIO(content), formats=formats)
        with picture:
            if picture.width * picture.height > MOST_PX:
                raise UserError(f"{where} claims {picture.width}x{picture.height} px: wanted at most {MOST_PX:,} px")
            yield picture
    except UnidentifiedImageError as error:
        raise UserError(f"{where} cannot be decoded: it is no {' or '.join(formats)} file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{where} cannot be decoded: wanted at most {MOST_PX:,} px") from error
    except PILLOW_ERRORS as error:
        raise UserError(f"{where} cannot be decoded ({one_line(error)}): get or generate the data set again") from error


def _cells(column: "pa.Array") -> Iterator[tuple[bytes | None, str | None]]:
    """Bytes and name of each cell of a column of pictures."""
    for cell in column.to_pylist():
        if isinstance(cell, dict):
            yield cell["bytes"], cell["path"] if isinstance(cell.get("path"), str) else None
        else:
            yield cell, None


def _check_schema(file: Path, schema: "pa.Schema") -> None:
    import pyarrow.types as kinds

    if missing := [name for name in ("image", "label", "source") if name not in schema.names]:
        raise UserError(f"{file} lacks the columns {missing}: wanted a data set of flexseg generate")
    if twice := [n for n in COLUMNS if len(schema.get_all_field_indices(n)) > 1]:
        raise UserError(f"{file} has the column {twice[0]!r} more than once: wanted a data set of flexseg generate")
    for name in ("image", "label"):
        kind = schema.field(name).type
        if kinds.is_struct(kind) and len(kind.get_all_field_indices("bytes")) == 1:
            kind = kind.field("bytes").type
        if not (kinds.is_binary(kind) or kinds.is_large_binary(kind)):
            raise UserError(
                f"{file}: column {name!r} holds {one_line(TypeError(kind), 80)}, wanted the bytes of picture files:"
                " paths and numbers are not followed"
            )
    if not (kinds.is_string(schema.field("source").type) or kinds.is_large_string(schema.field("source").type)):
        raise UserError(f"{file}: column 'source' holds {schema.field('source').type}, wanted text")
    if "alignment" in schema.names:
        kind = schema.field("alignment").type
        if not (kinds.is_floating(kind) or kinds.is_integer(kind) or kinds.is_null(kind)):
            raise UserError(f"{file}: column 'alignment' holds {one_line(TypeError(kind), 80)}, wanted numbers")


def _check_listed(folder: Path, found: set[str]) -> None:
    names = {name for name in read_manifest(folder).files if name.startswith("data/")}
    for what, wrong in (("has a file that its manifest does not list", found - names), ("lacks", names - found)):
        if wrong:
            raise UserError(
                f"{folder} {what}: {sorted(wrong)[0]}; a finished data set never changes, so remove what was added, or"
                " get the data set again (a copy of your own: delete its manifest.json)"
            )
