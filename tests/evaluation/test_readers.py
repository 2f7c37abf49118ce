"""Files of an evaluation and of a report changed at random: read as they are, or named in a line."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.counts import ImageCounts, no_counts, read_image_counts, save_image_counts, stack
from evaluation.parts import ScoredPart, read_part, write_part
from evaluation.report_schema import FILE, read_report
from evaluation.schema import SkippedScene, counts_file, read_evaluation, write_record
from pipeline.config.evaluation import EvaluationConfig
from pipeline.errors import UserError
from pipeline.seeding import random_generator
from tests.made_reports import ODD, made_report
from tests.mutations import changed, damaged, is_one_line_about, tried
from tests.scored import write_evaluation
from tests.tables import counted

WIDTHS = (1, 3)
SCENES = ("a", "b", "c")
ODD_ARRAYS = st.sampled_from(
    [
        np.zeros(0), np.array(["x", "y"]), np.array([1, 2, 3]), np.full((2, 19, 19), np.nan), np.zeros((2, 19, 19)),
        np.full((2, 2), -1, np.int32), np.zeros((2, 15), np.complex128), np.array(5), np.zeros((2, 2), "M8[s]"),
    ]
)  # fmt: skip


def counts(seed: int = 0) -> ImageCounts:
    """Two images, whose ids are the first and the last scene's."""
    random = random_generator("counts", seed)
    images = stack([(name, None, no_counts(len(WIDTHS))) for name in (SCENES[0], SCENES[2])], len(WIDTHS))
    filled: list[Any] = [
        random.integers(0, 9, column.shape).astype(column.dtype) if column.dtype.kind in "if" else column
        for column in images
    ]
    return ImageCounts(*filled)


PART = ScoredPart(counts(), {(4, 6)}, {"c": b"a picture"}, [SkippedScene(id="b", reason="it is broken")])


def same(one: ImageCounts, other: ImageCounts) -> bool:
    return all(
        first.dtype == second.dtype and np.array_equal(first, second) for first, second in zip(one, other, strict=True)
    )


def with_a_member(content: bytes, name: str, array: np.ndarray | bytes) -> bytes:
    """The npz file with another array, or other bytes, in a member's place, and sums that hold."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            if member == f"{name}.npy":
                buffer = io.BytesIO()
                np.save(buffer, array) if isinstance(array, np.ndarray) else buffer.write(array)
                data = buffer.getvalue()
            new.writestr(member, data)
    return out.getvalue()


@st.composite
def npz(draw: st.DrawFn, content: bytes) -> bytes:
    """Damage that sums notice, and members that were changed under sums that hold."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = draw(st.sampled_from(archive.namelist())).removesuffix(".npy")
        member = archive.read(f"{name}.npy")
    return draw(
        damaged(content)
        | ODD_ARRAYS.map(lambda array: with_a_member(content, name, array))
        | damaged(member[:80]).map(lambda head: with_a_member(content, name, head + member[80:]))
    )


@tried(50)
@given(data=st.data())
def test_parts(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "part"
    write_part(PART, file)
    whole = read_part(file, SCENES, WIDTHS)
    assert whole is not None and whole[1:] == PART[1:] and same(whole.counts, PART.counts)
    content = data.draw(npz(file.read_bytes()))
    file.write_bytes(content)
    found = read_part(file, SCENES, WIDTHS)
    if found is not None:
        assert found.counts.ids.tolist() == ["a", "c"] and [scene.id for scene in found.skipped] == ["b"]
        for column, wanted in zip(found.counts, PART.counts, strict=True):
            assert column.dtype.kind == wanted.dtype.kind and column.shape == wanted.shape


@tried(50)
@given(data=st.data())
def test_counts(tmp_path: Path, data: st.DataObject) -> None:
    save_image_counts(counts(), tmp_path, "fog")
    file = counts_file(tmp_path, "fog")
    assert same(read_image_counts(tmp_path, "fog"), counts())
    file.write_bytes(data.draw(npz(file.read_bytes())))
    try:
        found = read_image_counts(tmp_path, "fog")
    except UserError as error:
        is_one_line_about(error, file)
    else:
        assert all(column.dtype.kind == wanted.dtype.kind for column, wanted in zip(found, counts(), strict=True))
        assert len({len(column) for column in found}) == 1
        found.total()


def equal(found: Any, wanted: Any) -> bool:
    """Whether a record has all that its JSON says, and defaults for the rest."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return wanted.keys() <= found.keys() and all(equal(found[key], value) for key, value in wanted.items())
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(equal, found, wanted))
    return bool(found == wanted)


@tried(30)
@given(data=st.data())
def test_reports(tmp_path: Path, data: st.DataObject) -> None:
    write_record(made_report("fog", ODD), tmp_path / FILE)
    check(tmp_path / FILE, read_report, data)


@tried(30)
@given(data=st.data())
def test_evaluations(tmp_path: Path, data: st.DataObject) -> None:
    write_evaluation(tmp_path, {"fog": counted(0), "night": counted(1)}, EvaluationConfig(band=5, curve=(2,)))
    check(tmp_path / "evaluation.json", read_evaluation, data)


def check(file: Path, read: Any, data: st.DataObject) -> None:
    tree = json.loads(file.read_text())
    assert equal(read(file.parent).model_dump(mode="json"), tree)
    text = changed(tree).map(lambda new: json.dumps(new).encode("utf-8", "surrogatepass"))
    file.write_bytes(data.draw(damaged(file.read_bytes()) | text))
    try:
        found = read(file.parent).model_dump(mode="json")
    except UserError as error:
        is_one_line_about(error, file)
    else:
        assert equal(found, json.loads(file.read_bytes()))


@pytest.mark.parametrize("read", [read_report, read_evaluation])
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"null", b"{}", b'{"schema_version": 1}', b"1e999", b"\xff"])
def test_what_is_no_record_is_one_line(tmp_path: Path, read: Any, content: bytes) -> None:
    for name in (FILE, "evaluation.json"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    is_one_line_about(caught.value, tmp_path)
