"""Label maps of every bad kind: one clear line before long work, or images whose labels are the maps' own pixels."""

import io
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from generation.crops import LabelReader
from generation.generate import generate
from generation.plan import plan
from generation.samples import make_sample
from pipeline.config.data import Dataset
from pipeline.config.generation import GenerationConfig
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene, find_scenes
from pipeline.data.labels import IGNORE, NUM_CLASSES
from pipeline.data.statistics import class_pixels
from pipeline.errors import UserError

MACHINE = Machine(device="cpu", workers=1)
SIZE = (32, 64)


def config(**changes: object) -> GenerationConfig:
    fields = {"weights": "none", "counts": {"night": 3}, "size": SIZE, "steps": 1, "rare_class_pixels": 100}
    return GenerationConfig.model_validate({**fields, **changes})


def maps(folder: Path) -> list[Scene]:
    return find_scenes(Dataset(name="maps", root=folder, layout="globs", labels="*.png", ids="train"))


def streets() -> np.ndarray:
    label = np.full((64, 128), 10, np.uint8)
    label[32:] = 0
    return label


def encoded(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, format="PNG")
    return buffer.getvalue()


def with_pixel(train_id: int) -> np.ndarray:
    label = streets()
    label[50, 100] = train_id
    return label


def png_header(width: int, height: int) -> bytes:
    """A gray PNG that says its size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def as_palette() -> bytes:
    image = Image.fromarray(streets(), mode="P")
    image.putpalette([value for k in range(256) for value in (255 - k, k, 7)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


BAD: dict[str, tuple[bytes, str]] = {
    "truncated": (encoded(streets())[:-30], "cannot be read as an image"),
    "half": (encoded(streets())[: len(encoded(streets())) // 2], "cannot be read as an image"),
    "empty file": (b"", "cannot be read as an image"),
    "text": (b"road road road", "cannot be read as an image"),
    "RGB": (encoded(np.zeros((64, 128, 3), np.uint8)), "got Pillow mode 'RGB'"),
    "RGBA": (encoded(np.zeros((64, 128, 4), np.uint8)), "got Pillow mode 'RGBA'"),
    "gray with alpha": (encoded(streets(), "LA"), "got Pillow mode 'LA'"),
    "16 bit": (encoded(np.full((64, 128), 10, np.uint16)), "got Pillow mode 'I;16'"),
    "ids out of range": (encoded(np.full((64, 128), 77, np.uint8)), r"label id 77 \(8192 px\)"),
    "one px out of range": (encoded(with_pixel(19)), r"label id 19 \(1 px\)"),
    "smaller than the crop": (encoded(streets()[:16]), "smaller than the crop"),
    "1x1": (encoded(np.zeros((1, 1), np.uint8)), "smaller than the crop"),
    "no width": (png_header(0, 64), "cannot be read as an image|smaller than the crop"),
    "says that it is enormous": (png_header(60000, 60000), "too large|limit"),
    "says more px than it holds": (png_header(128, 64), "cannot be read as an image"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_map_is_one_line_before_anything_is_painted(kind: str, tmp_path: Path) -> None:
    content, why = BAD[kind]
    (tmp_path / "0.png").write_bytes(encoded(streets()))
    (tmp_path / "1.png").write_bytes(content)
    for counts in ({"night": 1}, {"night": 3, "plain": 3}):  # whether or not the plan needs the file
        with pytest.raises(UserError, match=why) as caught:
            plan(config(counts=counts), maps(tmp_path))
        assert "\n" not in str(caught.value) and str(tmp_path / "1.png") in str(caught.value)
    if "crop" not in why:  # every stage that reads labels says the same
        with pytest.raises(UserError, match=why):
            class_pixels(maps(tmp_path))


def one_class() -> np.ndarray:
    return np.zeros((64, 128), np.uint8)


def one_pixel() -> np.ndarray:
    return with_pixel(18)


def mostly_ignored() -> np.ndarray:
    label = np.full((64, 128), IGNORE, np.uint8)
    label[40:44, 10:14] = 11
    return label


def all_ignored() -> np.ndarray:
    return np.full((64, 128), IGNORE, np.uint8)


def the_crop_itself() -> np.ndarray:
    return streets()[:32, :64]


def many_ids() -> np.ndarray:
    ids = np.array([*range(NUM_CLASSES), IGNORE], np.uint8)
    return np.random.default_rng(0).choice(ids, (70, 131))


ODD = (one_class, one_pixel, mostly_ignored, all_ignored, the_crop_itself, many_ids)


@pytest.mark.parametrize("draw", ODD)
def test_odd_maps_are_painted_and_their_labels_kept(
    draw: Callable[[], np.ndarray], tiny_weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    label = draw()
    (folder / "0.png").write_bytes(encoded(label))
    fields = config(weights=str(tiny_weights), shard_size=2)
    if (label == IGNORE).all():
        (folder / "1.png").write_bytes(encoded(streets()))  # alone it is refused, see test_plan
    scenes = maps(folder)
    requests = plan(fields, scenes)
    generate(fields, requests, scenes, tmp_path / "set", machine=MACHINE)
    rows = [
        row
        for path in sorted((tmp_path / "set/data").iterdir())
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    assert len(rows) == 3
    for row, request in zip(rows, requests, strict=True):
        box, whole = request.box, np.asarray(Image.open(folder / f"{request.source}.png"))
        saved = np.asarray(Image.open(io.BytesIO(row["label"]["bytes"])))
        np.testing.assert_array_equal(saved, whole[box.top : box.top + 32, box.left : box.left + 64])
        assert np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).shape == (32, 64, 3)


def test_palette_maps_are_read_by_index(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(as_palette())
    scenes = maps(tmp_path)
    np.testing.assert_array_equal(LabelReader(scenes, None).read("0"), streets())
    assert len(plan(config(), scenes)) == 3


def test_large_maps_are_read_without_a_warning_and_too_large_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "0.png").write_bytes(encoded(streets()))
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 64 * 128 - 1
    )  # from here on Pillow warns, from twice it on it raises
    assert len(plan(config(), maps(tmp_path))) == 3
    assert not [str(w.message) for w in recwarn if "bomb" in str(w.message)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 128 // 2 - 1)
    with pytest.raises(UserError, match=r"0\.png: too large"):
        plan(config(), maps(tmp_path))


@pytest.mark.slow
def test_a_huge_map_takes_little_memory(tmp_path: Path) -> None:
    label = np.zeros((8000, 12000), np.uint8)
    label[4000:] = 10
    Image.fromarray(label).save(tmp_path / "0.png", compress_level=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scenes = maps(tmp_path)
    requests = plan(config(counts={"night": 2}), scenes)
    reader = LabelReader(scenes, None)
    for request in requests:
        box = request.box
        crop = label[box.top : box.top + 32, box.left : box.left + 64]
        np.testing.assert_array_equal(reader.crop("0", box), crop)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 8 * label.nbytes


IDS = st.sampled_from([*range(NUM_CLASSES), IGNORE])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(32, 90), st.integers(64, 150)),
    ids=st.lists(IDS, min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    coarse=st.sampled_from([1, 7, 40]),
    label_height=st.sampled_from([None, 32, 50]),
)
def test_a_saved_label_is_the_crop_of_its_map(
    tmp_path: Path, size: tuple[int, int], ids: list[int], seed: int, coarse: int, label_height: int | None
) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.choice(np.array(ids, np.uint8), (size[0] // coarse + 1, size[1] // coarse + 1))
    label = blocks.repeat(coarse, 0).repeat(coarse, 1)[: size[0], : size[1]]
    Image.fromarray(label).save(tmp_path / "0.png")
    scenes = maps(tmp_path)
    fields = config(label_height=label_height)
    try:
        requests = plan(fields, scenes)
    except UserError:
        too_narrow = label_height is not None and round(size[1] * label_height / size[0]) < SIZE[1]
        assert too_narrow or (label == IGNORE).all()
        return
    reader = LabelReader(scenes, label_height)
    shrunk = label
    if label_height is not None:
        width = round(size[1] * label_height / size[0])
        shrunk = np.asarray(Image.fromarray(label).resize((width, label_height), Image.Resampling.NEAREST))
    for request in requests:
        box = request.box
        image = np.zeros((*SIZE, 3), np.uint8)
        sample = make_sample(request, image, reader.crop("0", box))
        saved = np.asarray(Image.open(io.BytesIO(sample["label"]["bytes"])))
        np.testing.assert_array_equal(saved, shrunk[box.top : box.top + 32, box.left : box.left + 64])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_one_line_or_the_same_label(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(encoded(many_ids()))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 60))
        content[place] = data.draw(st.integers(0, 255))
    (tmp_path / "0.png").write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    message = ""
    try:
        label = LabelReader(maps(tmp_path), None).read("0")
    except UserError as error:
        message = str(error)
    if message:
        assert "\n" not in message and str(tmp_path / "0.png") in message
    else:
        np.testing.assert_array_equal(label, many_ids())
