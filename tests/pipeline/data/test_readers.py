"""Generated data sets changed at random: the rows are those that pyarrow reads from the same bytes, or are named."""

import io
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.generated_rows import GeneratedDataSet
from pipeline.errors import UserError
from pipeline.seeding import random_generator
from tests.mutations import damaged, is_one_line_about, tried

COMPRESSIONS = ("none", "snappy", "zstd", "gzip")


def picture(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count: int, size: tuple[int, int], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = random_generator("rows", seed)
    images = [random.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(count)]
    labels = [random.integers(0, 19, size).astype(np.uint8) for _ in range(count)]
    return images, labels


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, list[np.ndarray], list[np.ndarray], list[str]]:
    """A parquet file in one of the ways in which writers lay it out, and what is in it."""
    size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    images, labels = rows(draw(st.integers(1, 5)), size, draw(st.integers(0, 9)))
    sources = draw(st.lists(st.text(max_size=4), min_size=len(images), max_size=len(images)))

    def cell(pixels: np.ndarray) -> object:
        return {"bytes": picture(pixels), "path": "x.png"} if in_struct else picture(pixels)

    in_struct = draw(st.booleans())
    cells = [[cell(pixels) for pixels in column] for column in (images, labels)]
    columns = {"image": pa.array(cells[0]), "label": pa.array(cells[1]), "source": pa.array(sources, "string")}
    names = draw(st.permutations([*columns, "prompt"]))
    table = pa.table({name: columns.get(name, pa.array(["p"] * len(images))) for name in names})
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression=draw(st.sampled_from(COMPRESSIONS)),
        use_dictionary=draw(st.booleans()),
        row_group_size=draw(st.integers(1, 6)),
        data_page_version=draw(st.sampled_from(["1.0", "2.0"])),
        store_schema=draw(st.booleans()),
    )
    return buffer.getvalue(), images, labels, sources


def write(folder: Path, content: bytes) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "a.parquet").write_bytes(content)
    return folder


@tried(20)
@given(file=files())
def test_whole_files_of_every_layout(
    tmp_path: Path, file: tuple[bytes, list[np.ndarray], list[np.ndarray], list[str]]
) -> None:
    content, images, labels, sources = file
    data = GeneratedDataSet(write(tmp_path, content))
    assert len(data) == len(images) and data.sources() == sources and not data.has_alignment
    for row, image, label in zip(data.rows(), images, labels, strict=True):
        found = data.decoded(row)
        np.testing.assert_array_equal(found[0], image)
        np.testing.assert_array_equal(found[1], label)


@tried(60)
@given(file=files(), data=st.data())
def test_damaged_files(
    tmp_path: Path, file: tuple[bytes, list[np.ndarray], list[np.ndarray], list[str]], data: st.DataObject
) -> None:
    content = data.draw(damaged(file[0]))
    write(tmp_path, content)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = GeneratedDataSet(tmp_path)
        sources, read = found.sources(), list(found.rows())
    except UserError as error:
        is_one_line_about(error, tmp_path)
    else:
        theirs = pq.read_table(io.BytesIO(content), columns=["image", "label", "source"]).to_pylist()
        assert sources == [row["source"] for row in theirs]
        for row, other in zip(read, theirs, strict=True):
            cells = [other["image"], other["label"]]
            assert [row.image, row.label] == [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000  # KB


@tried(40)
@given(data=st.data(), column=st.sampled_from(["image", "label"]))
def test_damaged_pictures(tmp_path: Path, data: st.DataObject, column: str) -> None:
    """A PNG's chunks carry sums, so what is decoded is what was written, or the row is named."""
    images, labels = rows(2, (5, 7), 3)
    cells = {"image": [picture(pixels) for pixels in images], "label": [picture(pixels) for pixels in labels]}
    cells[column][1] = data.draw(damaged(cells[column][1]))
    buffer = io.BytesIO()
    pq.write_table(pa.table({**cells, "source": ["a", "b"]}), buffer)
    found = GeneratedDataSet(write(tmp_path, buffer.getvalue()))
    first, second = found.rows()
    np.testing.assert_array_equal(found.decoded(first)[1], labels[0])
    try:
        image, label = found.decoded(second)
    except UserError as error:
        is_one_line_about(error, f"{tmp_path}: row 1")
    else:
        with Image.open(io.BytesIO(cells["image"][1])) as theirs:
            np.testing.assert_array_equal(image, np.asarray(theirs.convert("RGB")))
        with Image.open(io.BytesIO(cells["label"][1])) as theirs:
            np.testing.assert_array_equal(label, np.asarray(theirs))
