"""Finding and reading labeled data sets in each layout, and what is said about broken ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import Dataset
from pipeline.data.datasets import check_pair, find_scenes, load_pair
from pipeline.data.image_files import read_image
from pipeline.data.labels import CITYSCAPES_IDS, TRAIN_IDS, load_label_map
from pipeline.data.statistics import class_pixels
from pipeline.errors import UserError


def image(path: Path, size: tuple[int, int] = (8, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 7, np.uint8)).save(path)
    return path


def label(path: Path, value: int = 0, size: tuple[int, int] = (8, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


def gta(root: Path) -> Dataset:
    for name in ("00002", "00001"):
        image(root / "images" / f"{name}.png")
        label(root / "labels" / f"{name}.png", 7)
    return Dataset(name="gta", root=root, layout="gta")


def cityscapes(root: Path) -> Dataset:
    for city in ("ulm", "bonn"):
        image(root / "leftImg8bit" / "val" / city / f"{city}_000000_000001_leftImg8bit.png")
        label(root / "gtFine" / "val" / city / f"{city}_000000_000001_gtFine_labelIds.png", 26)
        label(root / "gtFine" / "val" / city / f"{city}_000000_000001_gtFine_instanceIds.png", 99)
    return Dataset(name="cs", root=root, layout="cityscapes")


def test_gta(tmp_path: Path) -> None:
    scenes = find_scenes(gta(tmp_path))
    assert [scene.id for scene in scenes] == ["00001", "00002"]
    assert scenes[0].image == tmp_path / "images" / "00001.png" and scenes[0].ids == CITYSCAPES_IDS
    assert (load_label_map(scenes[0].label, scenes[0].ids) == 0).all()


def test_train_id_files_are_preferred(tmp_path: Path) -> None:
    dataset = gta(tmp_path)
    label(tmp_path / "labels" / "00001_labelTrainIds.png", 13)
    first, second = find_scenes(dataset)
    assert first.label.name == "00001_labelTrainIds.png" and first.ids == TRAIN_IDS
    assert second.label.name == "00002.png" and second.ids == CITYSCAPES_IDS


def test_cityscapes(tmp_path: Path) -> None:
    scenes = find_scenes(cityscapes(tmp_path))
    assert [scene.id for scene in scenes] == ["bonn_000000_000001", "ulm_000000_000001"]
    assert all(scene.ids == CITYSCAPES_IDS and scene.label.name.endswith("_labelIds.png") for scene in scenes)
    with pytest.raises(UserError, match="leftImg8bit/train not found"):
        find_scenes(Dataset(name="cs", root=tmp_path, layout="cityscapes", split="train"))


def test_globs(tmp_path: Path) -> None:
    for k in range(3):
        image(tmp_path / "photos" / f"s{k % 2}" / f"{k}.jpg")
        label(tmp_path / "truth" / f"s{k % 2}" / f"{k}_mask.png", 5)
    both = {"images": "photos/*/*.jpg", "labels": "truth/*/*_mask.png", "ids": {5: 10}}
    dataset = Dataset(name="mine", root=tmp_path, layout="globs", **both)
    scenes = find_scenes(dataset)
    assert [scene.id for scene in scenes] == ["s0_0", "s0_2", "s1_1"]
    assert [(s.image.stem if s.image else "") + "_mask" for s in scenes] == [s.label.stem for s in scenes]
    np.testing.assert_array_equal(class_pixels(scenes), np.eye(19, dtype=np.int64)[[10] * 3] * 96)
    only_labels = find_scenes(Dataset(name="mine", root=tmp_path, layout="globs", labels="truth/*/*.png", ids={5: 10}))
    assert [scene.image for scene in only_labels] == [None] * 3


def test_a_part_of_the_scenes(tmp_path: Path) -> None:
    for k in range(5):
        label(tmp_path / f"{k}.png", 0)
    whole = Dataset(name="mine", root=tmp_path, layout="globs", labels="*.png", ids="train")
    first, rest = (whole.model_copy(update={"take": part}) for part in ((0, 3), (3, None)))
    assert [scene.id for scene in find_scenes(first)] == ["0", "1", "2"]
    assert [scene.id for scene in find_scenes(rest)] == ["3", "4"]
    with pytest.raises(UserError, match="leaves none of its 5 scenes"):
        find_scenes(whole.model_copy(update={"take": (5, None)}))


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere not found"):
        find_scenes(Dataset(name="gta", root=tmp_path / "nowhere", layout="gta"))
    with pytest.raises(UserError, match="images not found"):
        find_scenes(Dataset(name="gta", root=tmp_path, layout="gta"))
    dataset = gta(tmp_path)
    (tmp_path / "labels" / "00002.png").unlink()
    with pytest.raises(UserError, match=r"images/00002.png has no label"):
        find_scenes(dataset)
    with pytest.raises(UserError, match="no file matches"):
        find_scenes(Dataset(name="x", root=tmp_path, layout="globs", labels="*.gif", ids="train"))


def test_pair_of_unequal_sizes_names_both(tmp_path: Path) -> None:
    dataset = gta(tmp_path)
    first = find_scenes(dataset)[0]
    check_pair(first)
    label(first.label, 7, size=(8, 13))
    for check in (check_pair, load_pair):
        with pytest.raises(UserError) as error:
            check(first)
        assert all(part in str(error.value) for part in (str(first.image), "12x8", str(first.label), "13x8"))


def test_load_image_is_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 9, np.uint8)).save(tmp_path / "gray.png")
    pixels = read_image(tmp_path / "gray.png")
    assert pixels.shape == (4, 5, 3) and pixels.dtype == np.uint8 and (pixels == 9).all()
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(tmp_path / "no.png")


CAMVID = Path(__file__).parents[4] / "shared" / "data" / "camvid_val"


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"the shared real data is not at {CAMVID}")
def test_real_photographs() -> None:
    ids = {0: 10, 1: 2, 2: 5, 3: 0, 4: 1, 5: 8, 6: 7, 7: 4, 8: 13, 9: 11, 10: 18, 11: 255}
    dataset = Dataset(name="camvid", root=CAMVID, layout="globs", images="images/*.png", labels="labels/*.png", ids=ids)
    scenes = find_scenes(dataset)
    assert len(scenes) == 101
    for scene in scenes:
        check_pair(scene)
    assert class_pixels(scenes[:5]).sum(0).argmax() in (0, 2)  # road or building
