"""Loading label maps: ids, modes, files that are not whole."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.labels import CITYSCAPES_IDS, CLASS_NAMES, CLASSES, IGNORE, TRAIN_IDS, load_label_map
from pipeline.errors import UserError


def save(array: np.ndarray, path: Path, palette: bool = False) -> Path:
    image = Image.fromarray(array)
    if palette:
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette([channel for c in CLASSES for channel in c.color])
    image.save(path)
    return path


def test_tables_agree_with_the_published_ids() -> None:
    assert len(CLASS_NAMES) == 19 and CLASS_NAMES[13] == "car"
    assert {stored: t for stored, t in CITYSCAPES_IDS.items() if t != IGNORE} == {
        7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10,
        24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
    }  # fmt: skip
    assert set(CITYSCAPES_IDS) == set(range(-1, 35))


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("ids", [TRAIN_IDS, CITYSCAPES_IDS, {0: 10, 3: 0, 200: 255}])
def test_translates_each_value(tmp_path: Path, ids: dict[int, int], palette: bool) -> None:
    stored = np.array([[i % 256 for i in ids] * 2] * 3, np.uint8)
    label = load_label_map(save(stored, tmp_path / "a.png", palette), ids)
    assert label.dtype == np.uint8 and label.shape == stored.shape
    expected = np.array([[list(ids.values())] * 3]).reshape(3, -1)
    np.testing.assert_array_equal(label, np.concatenate([expected, expected], axis=1))


def test_read_only(tmp_path: Path) -> None:
    label = load_label_map(save(np.zeros((2, 3), np.uint8), tmp_path / "a.png"), TRAIN_IDS)
    with pytest.raises(ValueError, match="read-only"):
        label[0, 0] = 1


@given(st.integers(0, 255).filter(lambda value: value not in TRAIN_IDS))
def test_unknown_id_names_file_value_and_count(tmp_path_factory: pytest.TempPathFactory, value: int) -> None:
    stored = np.zeros((4, 5), np.uint8)
    stored[1, :3] = value
    path = save(stored, tmp_path_factory.mktemp("labels") / "bad.png")
    with pytest.raises(UserError) as error:
        load_label_map(path, TRAIN_IDS)
    text = str(error.value)
    assert str(path) in text and f"id {value} (3 px)" in text and "255" in text and "\n" not in text


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint16)],
    ids=["rgb", "rgba", "16-bit"],
)
def test_other_modes_are_errors(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(UserError, match="wanted a label map of one channel and at most 8 bits"):
        load_label_map(save(array, tmp_path / "a.png"), TRAIN_IDS)


def test_float_tiff_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="TIFF may change ids, save label maps as PNG"):
        load_label_map(tmp_path / "a.tif", TRAIN_IDS)


@pytest.mark.parametrize("keep", [0, 10, 50, 0.5, 0.95])
def test_truncated_png(tmp_path: Path, keep: float) -> None:
    rng = np.random.default_rng(0)
    path = save(rng.integers(0, 19, (64, 64)).astype(np.uint8), tmp_path / "a.png")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 or keep == 0 else keep * len(content))])
    with pytest.raises(UserError) as error:
        load_label_map(path, TRAIN_IDS)
    assert str(path) in str(error.value) and "truncated" in str(error.value) and "\n" not in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        load_label_map(tmp_path / "a.png", TRAIN_IDS)
