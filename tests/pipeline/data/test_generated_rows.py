"""Data sets of strangers (cases 05, F08, F09, F10): only bytes inside the listed files are decoded, each fault is one
line that names the file or the row."""

import io
import json
import os
import re
import resource
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.generated_rows import GeneratedDataSet
from pipeline.errors import UserError
from pipeline.seeding import random_generator
from tests.artifact_manifests import manifest_of

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
LABEL = np.arange(8 * 12, dtype=np.uint8).reshape(8, 12) % 19


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


DEEP = cv2.imencode(".png", np.full((8, 12, 3), 40_000, np.uint16))[1].tobytes()
"""16 bits per color, which Pillow cannot write."""
GRAY, IDS = encoded(np.full((8, 12, 3), 7, np.uint8)), encoded(LABEL)


def write(folder: Path, name: str = "train-0.parquet", count: int = 2, **columns: Any) -> Path:
    """A data set of one file. A column is an arrow array, or the cells of one as rows of bytes and path."""
    table: dict[str, Any] = {"image": [GRAY] * count, "label": [IDS] * count, "source": ["town"] * count, **columns}
    for column in ("image", "label"):
        if isinstance(table[column], list):
            cells = [c if isinstance(c, dict) else {"bytes": c, "path": "x.png"} for c in table[column]]
            table[column] = pa.array(cells, PICTURE)
    return write_table(folder, name, {k: v for k, v in table.items() if v is not None})


def write_table(folder: Path, name: str, columns: dict[str, Any], **options: Any) -> Path:
    """The same, of these columns alone; `options` are parquet's."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    with (folder / "data" / name).open("wb") as file:
        pq.write_table(pa.table(columns), file, **options)
    return folder


def refusal(folder: Path) -> str:
    """The one line with which reading the whole data set ends."""
    with pytest.raises(UserError) as error:
        _read_all(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def _read_all(folder: Path) -> None:
    data = GeneratedDataSet(folder)
    data.sources()
    if data.has_alignment:
        data.alignments()
    for row in data.rows():
        data.decoded(row)


@pytest.mark.parametrize(
    "odd", ["set [v2]", "do::ble", "**", "q_st*r", "what?", "50%20", "{a,b}", "zip:", "ä 'b\"", "~"]
)
def test_a_folder_is_opened_as_it_is_spelled(tmp_path: Path, odd: str) -> None:
    """Cases 05 and F08: `set [v2]` was read as the pattern for its neighbor `set v`."""
    for neighbor in ("set v", "q_stXr", "whatX", "a"):
        write(tmp_path / neighbor, image=[encoded(np.zeros((8, 12, 3), np.uint8))] * 2)
    data = GeneratedDataSet(write(tmp_path / odd))
    rows = list(data.rows())
    assert [row.number for row in rows] == [0, 1] and len(data) == 2
    image, label = data.decoded(rows[1])
    assert (image == 7).all() and image.shape == (8, 12, 3)
    np.testing.assert_array_equal(label, LABEL)


def test_a_name_that_is_no_text_is_opened(tmp_path: Path) -> None:
    data = GeneratedDataSet(write(tmp_path / os.fsdecode(b"\xff[x]")))
    assert len(list(data.rows())) == 2


def test_the_path_of_a_cell_is_never_followed(tmp_path: Path) -> None:
    """Case F09: addresses were fetched, other files read, and a pipe waited for without end."""
    (tmp_path / "secret.png").write_bytes(GRAY)
    os.mkfifo(tmp_path / "pipe.png")
    paths = [
        "http://127.0.0.1:9/steal.png", "zip://a.png::http://127.0.0.1:9/a.zip", "hf://datasets/a/b.png", "/dev/zero",
        str(tmp_path / "secret.png"), str(tmp_path / "pipe.png"), "../secret.png", "", None,
    ]  # fmt: skip
    for number, path in enumerate(paths):
        for column in ("image", "label"):
            folder = tmp_path / f"{column}{number}"
            good = GRAY if column == "image" else IDS
            columns: dict[str, Any] = {column: [good, {"bytes": None, "path": path}]}
            write(folder, **columns)
            assert f"row 1 holds no bytes of its {column}" in refusal(folder)
    named = write(tmp_path / "named", image=[{"bytes": GRAY, "path": str(tmp_path / "pipe.png")}] * 2)
    data = GeneratedDataSet(named)  # a path beside bytes is no more than a name
    assert [data.decoded(row)[0].max() for row in data.rows()] == [7, 7]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label": None}, r"lacks the columns \['label'\]"),
        ({"image": pa.array(["http://x/a.png"] * 2)}, "column 'image' holds string"),
        ({"image": pa.array([1, 2])}, "column 'image' holds int64"),
        ({"image": pa.array([[1], [2]])}, "column 'image' holds list"),
        ({"label": pa.array([None, None])}, "column 'label' holds null"),
        ({"label": pa.array([{"path": "a"}] * 2)}, "column 'label' holds struct"),
        ({"label": pa.array([{"bytes": "text"}] * 2)}, "column 'label' holds string"),
        ({"image": pa.array([None, None], PICTURE)}, "row 0 holds no bytes of its image"),
        ({"source": pa.array([1, 2])}, "column 'source' holds int64"),
        ({"source": pa.array(["a", None])}, "row 1 has no 'source'"),
        ({"alignment": pa.array(["a", "b"])}, "column 'alignment' holds string"),
        ({"alignment": pa.array([0.5, None])}, "row 1 has no 'alignment'"),
        ({"alignment": pa.array([float("nan"), 0.5])}, "row 0 has the alignment nan"),
    ],
)
def test_other_columns_and_cells_are_one_line(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    """Case F10."""
    assert re.search(said, refusal(write(tmp_path, **columns)))


def _bomb() -> bytes:
    """A PNG of some 80 bytes that claims 9,000 x 9,000 px."""
    header = b"IHDR" + (9_000).to_bytes(4) * 2 + GRAY[24:29]
    return GRAY[:12] + header + zlib.crc32(header).to_bytes(4) + GRAY[33:]


@pytest.mark.parametrize(
    ("column", "content", "said"),
    [
        ("image", b"", "is no PNG or JPEG or WEBP file"),
        ("image", b"<!DOCTYPE html>", "is no PNG or JPEG or WEBP file"),
        ("image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "is no PNG or JPEG or WEBP file"),
        ("image", encoded(np.zeros((8, 12), np.uint8), "TIFF"), "is no PNG or JPEG or WEBP file"),
        ("image", GRAY[:-20], "cannot be decoded"),
        ("image", GRAY[:50], "cannot be decoded"),
        ("image", _bomb(), "wanted at most"),
        ("image", encoded(np.zeros((8, 12), np.uint16)), "wanted 8-bit color or gray"),
        ("image", DEEP, "mode 'RGB' of 16 bits: wanted 8-bit color or gray"),
        ("image", encoded(np.zeros((9, 12, 3), np.uint8)), "wanted equal sizes"),
        ("label", encoded(LABEL, "JPEG"), "is no PNG file"),
        ("label", encoded(LABEL.astype(np.uint16)), "no PNG of 8-bit gray or palette"),
        ("label", encoded(np.stack([LABEL] * 3, axis=2)), "no PNG of 8-bit gray or palette"),
        ("label", encoded(Image.fromarray(LABEL > 3)), "no PNG of 8-bit gray or palette"),
        ("label", encoded(np.full((8, 12), 19, np.uint8)), "values up to 19"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_such_picture_are_named(tmp_path: Path, column: str, content: bytes, said: str) -> None:
    """Case F10: junk, bombs, depths that a decoder would change, and an EPS that starts another program."""
    good = GRAY if column == "image" else IDS
    columns: dict[str, Any] = {column: [good, content]}
    message = refusal(write(tmp_path, **columns))
    assert said in message and "row 1" in message


def test_pictures_that_are_taken(tmp_path: Path) -> None:
    """Turned photographs are turned, palettes are indices, plain bytes need no struct."""
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = np.zeros((12, 8, 3), np.uint8)
    picture[:6] = 200
    palette = Image.fromarray(LABEL, "P")
    palette.putpalette([250 - k for k in range(57)])
    kinds = [encoded(picture, "JPEG", exif=turned, quality=95), encoded(picture.transpose(1, 0, 2), "WEBP")]
    data = GeneratedDataSet(write(tmp_path, image=pa.array(kinds), label=[encoded(palette, bits=8), IDS]))
    (turned_image, first), (_, second) = (data.decoded(row) for row in data.rows())
    assert turned_image[:, 7:].mean() > 190 and turned_image[:, :5].mean() < 10  # the top has become the right side
    np.testing.assert_array_equal(first, LABEL)
    np.testing.assert_array_equal(second, LABEL)


def test_files_of_other_columns_are_joined_by_those_that_are_read(tmp_path: Path) -> None:
    """Two schemas were a traceback; no rows at all are no fault of reading."""
    write(tmp_path, "a.parquet", prompt=["x", "y"], alignment=pa.array([0.1, 0.2]))
    write(tmp_path, "b.parquet", prompt=pa.array([1, 2]), image=pa.array([GRAY, GRAY], pa.large_binary()))
    write(
        tmp_path,
        "c.parquet",
        0,
        image=pa.array([], PICTURE),
        label=pa.array([], PICTURE),
        source=pa.array([], "string"),
    )
    data = GeneratedDataSet(tmp_path)
    assert [row.number for row in data.rows()] == [0, 1, 2, 3] and len(data) == 4
    assert not data.has_alignment
    with pytest.raises(UserError, match="no column 'alignment'"):
        data.alignments()


def test_what_a_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    """Issue 11: a file added to a finished data set was trained on under the same key."""
    write(tmp_path)
    entry = {"sha256": "0" * 64, "size": 1}
    listed = {"data/train-0.parquet": entry, "README.md": entry}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest_of(listed)))
    assert len(GeneratedDataSet(tmp_path)) == 2
    write(tmp_path, "train-1.parquet")
    assert "a file that its manifest does not list: data/train-1.parquet" in refusal(tmp_path)
    (tmp_path / "data" / "train-1.parquet").unlink()
    (tmp_path / "data" / "train-0.parquet").rename(tmp_path / "data" / "train-2.parquet")
    assert "does not list: data/train-2.parquet" in refusal(tmp_path)
    others: list[Any] = [{}, [], None, {"data/../../x.parquet": {}}]
    for files in others:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest_of(files)))
        refusal(tmp_path)


def test_what_lies_in_the_folder_and_is_no_data(tmp_path: Path) -> None:
    write(tmp_path)
    for name in (".hidden.parquet", "notes.txt", ".DS_Store"):
        (tmp_path / "data" / name).write_bytes(b"junk")
    assert len(GeneratedDataSet(tmp_path)) == 2
    os.mkfifo(tmp_path / "data" / "pipe.parquet")
    assert "pipe.parquet is no regular file" in refusal(tmp_path)


def repeated(value: bytes | str, count: int) -> pa.Array:
    """A column that refers to its one value by number."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


@pytest.mark.parametrize(
    ("column", "size", "said"),
    [("image", 30_000_000, "claims 30,0.* bytes of 'image' in"), ("source", 300_000, "a 'source' of 300,000 char")],
)
def test_a_few_kilobytes_take_no_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, size: int, said: str
) -> None:
    """One packed value in 64 rows: with 300 MB it took 19 GB."""
    monkeypatch.setattr("pipeline.data.parquet_files.MOST_UNPACKED", 1_000_000)
    values: dict[str, bytes | str] = {"image": GRAY, "label": IDS, "source": "town"}
    values[column] = bytes(size) if column == "image" else "x" * size
    columns = {name: repeated(value, 64) for name, value in values.items()}
    write_table(tmp_path, "a.parquet", columns, compression="zstd", store_schema=False)
    assert (tmp_path / "data/a.parquet").stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert re.search(said, refusal(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_no_more_rows_than_bytes(tmp_path: Path) -> None:
    columns = {name: repeated(value, 100_000) for name, value in (("image", GRAY), ("label", IDS), ("source", "town"))}
    write_table(tmp_path, "a.parquet", columns, store_schema=False)
    assert "claims 100,000 rows in" in refusal(tmp_path)


def test_few_rows_are_held_where_they_could_be_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.parquet_files.MOST_BYTES", 100)
    data = GeneratedDataSet(write(tmp_path, count=5))
    assert [row.number for row in data.rows()] == list(range(5)) and data.sources() == ["town"] * 5


def test_any_damage_is_one_line_or_harmless(tmp_path: Path) -> None:
    """A property: random bytes of a small data set changed, cut or doubled; never a traceback, never a long wait."""
    write(tmp_path, count=3, alignment=pa.array([0.1, 0.2, 0.3]))
    file = tmp_path / "data" / "train-0.parquet"
    whole, random = file.read_bytes(), random_generator("damaged parquet")
    refused = 0
    for trial in range(150):
        content = bytearray(whole)
        for place in random.integers(0, len(content), 1 + trial % 3):
            content[place] ^= 1 << int(random.integers(8))
        file.write_bytes(content[: int(random.integers(len(content)))] if trial % 5 == 0 else content)
        with suppress(UserError):
            _read_all(tmp_path)
            refused -= 1
        refused += 1
    assert refused > 50
