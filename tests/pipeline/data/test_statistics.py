"""Class statistics, counted once for all, and what looks wrong in label maps that can all be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import Dataset
from pipeline.data.datasets import Scene, find_scenes
from pipeline.data.labels import CITYSCAPES_IDS, load_label_map
from pipeline.data.statistics import Statistics, absent_classes, check_labeled, count_labels
from pipeline.errors import UserError


def scenes(root: Path, *maps: np.ndarray, ids: str = "cityscapes") -> list[Scene]:
    for k, label in enumerate(maps):
        Image.fromarray(label.astype(np.uint8)).save(root / f"{k}.png")
    return find_scenes(Dataset.model_validate({
        "name": "own", "root": root, "layout": "globs", "labels": "*.png", "ids": ids,
    }))  # fmt: skip


def test_counts_are_those_of_the_decoded_maps(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    maps = [random.integers(0, 34, (random.integers(20, 40), random.integers(20, 60))) for _ in range(8)]
    found = scenes(tmp_path, *maps)
    counted = count_labels(found, height=16)
    for scene, pixels, shrunk in zip(found, counted.pixels, counted.shrunk, strict=True):
        label = load_label_map(scene.label, CITYSCAPES_IDS)
        assert pixels.tolist() == [(label == k).sum() for k in range(19)]
        width = round(label.shape[1] * 16 / label.shape[0])
        small = np.asarray(Image.fromarray(label).resize((width, 16), Image.Resampling.NEAREST))
        assert shrunk.tolist() == [(small == k).sum() for k in range(19)]
    counted.write(tmp_path)
    read = Statistics.read(tmp_path)
    np.testing.assert_array_equal(read.pixels, counted.pixels)
    np.testing.assert_array_equal(read.shrunk, counted.shrunk)
    assert read.warnings == counted.warnings == []


def test_label_maps_that_do_not_fit_their_table(tmp_path: Path) -> None:
    def warnings(*maps: np.ndarray, ids: str = "cityscapes") -> list[str]:
        for path in tmp_path.glob("*.png"):
            path.unlink()
        return list(count_labels(scenes(tmp_path, *maps, ids=ids)).warnings)

    streets = np.repeat([7, 11, 23, 26], 25).reshape(10, 10)
    assert warnings(streets) == []
    train = np.repeat([0, 2, 8, 10, 13], 20).reshape(10, 10)
    (mistaken,) = warnings(train, np.full((10, 10), 255), train)
    assert "hold only the values 0, 2, 8, 10, 13, 255, as train ids do" in mistaken
    (some,) = warnings(streets, np.where(train == 0, 255, train))
    assert "255 stands in 20 px of label maps that are read as Cityscapes' label ids" in some
    assert warnings(train, np.full((10, 10), 255), ids="train") == []
    (ignored,) = warnings(*[np.full((10, 10), 255)] * 20, train, ids="train")
    assert ignored.startswith("95.2% of all px are ignored")


def test_classes_that_never_occur(tmp_path: Path) -> None:
    pixels = count_labels(scenes(tmp_path, np.full((4, 4), 7), np.full((4, 4), 26))).pixels
    assert len(absent_classes(pixels)) == 17 and not {"road", "car"} & set(absent_classes(pixels))
    check_labeled("own", pixels)
    with pytest.raises(UserError, match=r"own: none of the 2 label maps holds a class"):
        check_labeled("own", pixels * 0)


def test_a_bad_label_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1.png: label id 77 \(16 px\)"):
        count_labels(scenes(tmp_path, np.full((4, 4), 7), np.full((4, 4), 77)))
