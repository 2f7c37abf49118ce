"""The five target data sets, each in the folders that it is unpacked to (shared/datasets.md)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import Dataset
from pipeline.data.datasets import Scene, find_scenes
from pipeline.data.labels import CLASS_NAMES
from pipeline.data.statistics import class_pixels
from pipeline.errors import UserError


def pair(root: Path, image: str, label: str, value: int, *, palette: bool = False) -> None:
    """An image and a label map that holds one value."""
    for name, pixels in ((image, np.zeros((4, 6, 3), np.uint8)), (label, np.full((4, 6), value, np.uint8))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels)
        if palette and name == label:
            picture.putpalette(list(range(256)) * 3)
        picture.save(root / name)


def found(root: Path, layout: str) -> list[Scene]:
    return find_scenes(Dataset.model_validate({"name": layout, "root": root, "layout": layout}))


def classes(scenes: list[Scene]) -> list[str]:
    return [CLASS_NAMES[k] for k in class_pixels(scenes).argmax(1)]


def test_bdd100k(tmp_path: Path) -> None:
    pair(tmp_path, "images/10k/val/7d06fefd-f7be05a6.jpg", "labels/sem_seg/masks/val/7d06fefd-f7be05a6.png", 13)
    pair(tmp_path, "images/10k/train/0a0a0b1a.jpg", "labels/sem_seg/masks/train/0a0a0b1a.png", 13)
    scenes = found(tmp_path, "bdd100k")
    assert [scene.id for scene in scenes] == ["7d06fefd-f7be05a6"]
    assert classes(scenes) == ["car"]


def test_mapillary(tmp_path: Path) -> None:
    for name, value in (("a", 24), ("b", 22), ("c", 57), ("d", 50)):
        pair(tmp_path, f"validation/images/{name}.jpg", f"validation/labels/{name}.png", value, palette=True)
    scenes = found(tmp_path, "mapillary")
    assert classes(scenes) == ["road", "rider", "motorcycle", "traffic sign"]
    pair(tmp_path, "validation/images/e.jpg", "validation/labels/e.png", 66, palette=True)
    with pytest.raises(UserError, match=r"label id 66 \(24 px\) is not in the data set's id table"):
        class_pixels(found(tmp_path, "mapillary"))


def test_two_labels_whose_names_differ_in_capitals_are_refused(tmp_path: Path) -> None:
    """The last one counted, without a word."""
    pair(tmp_path, "validation/images/a.jpg", "validation/labels/a.png", 24)
    Image.new("L", (6, 4), 29).save(tmp_path / "validation/labels/a.PNG")
    with pytest.raises(UserError, match=r"labels/a.PNG and .*labels/a.png have the same name but for capitals"):
        found(tmp_path, "mapillary")


def test_acdc_by_condition(tmp_path: Path) -> None:
    for condition in ("fog", "night", "rain", "snow"):
        for split in ("train", "val"):
            name = f"{condition}/{split}/GOPR0475/GOPR0475_{condition}_{split}"
            pair(tmp_path, f"rgb_anon/{name}_rgb_anon.png", f"gt/{name}_gt_labelTrainIds.png", 10)
    (tmp_path / "rgb_anon/fog/val/GOPR0475/GOPR0475_ref_rgb_ref_anon.png").touch()  # the clear-weather twin: no label
    scenes = found(tmp_path, "acdc")
    assert [(scene.condition, scene.id) for scene in scenes] == [
        (condition, f"GOPR0475_{condition}_val") for condition in ("fog", "night", "rain", "snow")
    ]
    assert classes(scenes) == ["sky"] * 4


def test_acdc_flattened(tmp_path: Path) -> None:
    pair(tmp_path, "rgb_anon/val/GP01_000001_rgb_anon.png", "gt/val/GP01_000001_gt_labelIds.png", 26)
    pair(tmp_path, "rgb_anon/train/GP01_000002_rgb_anon.png", "gt/train/GP01_000002_gt_labelIds.png", 26)
    scenes = found(tmp_path, "acdc")
    assert [(scene.condition, scene.id) for scene in scenes] == [(None, "GP01_000001")]
    assert classes(scenes) == ["car"]


def test_dark_zurich(tmp_path: Path) -> None:
    name = "val/night/GP010376/GP010376_frame_000001"
    pair(tmp_path, f"rgb_anon/{name}_rgb_anon.png", f"gt/{name}_gt_labelTrainIds.png", 0)
    scenes = found(tmp_path, "dark-zurich")
    assert [(scene.condition, scene.id) for scene in scenes] == [("night", "GP010376_frame_000001")]


@pytest.mark.parametrize("layout", ["gta", "cityscapes", "bdd100k", "mapillary", "acdc", "dark-zurich"])
def test_an_empty_or_foreign_folder_is_named(tmp_path: Path, layout: str) -> None:
    with pytest.raises(UserError, match=f"not found; layout '{layout}' wants it"):
        found(tmp_path, layout)


def test_a_split_without_images(tmp_path: Path) -> None:
    pair(tmp_path, "rgb_anon/fog/train/G/G_1_rgb_anon.png", "gt/fog/train/G/G_1_gt_labelTrainIds.png", 10)
    with pytest.raises(UserError, match=r"no \*_rgb_anon.png of split 'val' under .*rgb_anon; correct"):
        found(tmp_path, "acdc")
