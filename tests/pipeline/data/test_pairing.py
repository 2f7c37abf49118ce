"""Which label belongs to which image: by name, never by order; what has no partner is named. Nothing is left out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.config.data import Dataset
from pipeline.data.datasets import find_scenes, list_scenes
from pipeline.data.trees import matches
from pipeline.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def globs(root: Path, images: str = "images/*.png", labels: str = "labels/*.png") -> Dataset:
    return Dataset(name="own", root=root, layout="globs", images=images, labels=labels, ids="train")


def pairs(dataset: Dataset) -> list[tuple[str, str]]:
    """(image, label) of every scene, relative to the root."""
    listing = list_scenes(dataset)
    return [
        (str(s.image.relative_to(dataset.root)), str(s.label.relative_to(dataset.root)))
        for s in listing.scenes
        if s.image is not None
    ]


def test_case_01_unpadded_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{k}.png" for k in (1, 2, 10)), *(f"labels/{k}_mask.png" for k in (1, 2, 10)))
    assert pairs(globs(tmp_path)) == [(f"images/{k}.png", f"labels/{k}_mask.png") for k in (1, 10, 2)]


def test_case_01_an_image_and_a_label_too_many(tmp_path: Path) -> None:
    touch(tmp_path, "images/000.png", "images/001.png", "labels/001.png", "labels/002.png")
    dataset = globs(tmp_path)
    assert pairs(dataset) == [("images/001.png", "labels/001.png")]
    listing = list_scenes(dataset)
    assert [scene.image for scene in listing.unlabeled] == [tmp_path / "images/000.png"]
    assert [(s.label, s.image) for s in listing.imageless] == [
        (tmp_path / "labels/002.png", tmp_path / "images/002.png")
    ]
    with pytest.raises(UserError, match=r"images/000.png has no label.*labels/002.png has no image"):
        find_scenes(dataset)
    assert [scene.id for scene in find_scenes(dataset, incomplete=True)] == ["000", "001", "labels_002"]
    (tmp_path / "images/000.png").unlink()
    with pytest.raises(
        UserError, match=r"^own: label map .*/labels/002.png has no image, wanted .*/images/002.png; add"
    ):
        find_scenes(dataset)


@pytest.mark.parametrize(
    ("images", "labels", "patterns"),
    [
        (["rgb/rgb_7.png", "rgb/rgb_12.png"], ["ss/ss_12.png", "ss/ss_7.png"], ("rgb/*.png", "ss/*.png")),
        (["a/0001TP_006690.png"], ["a/0001TP_006690_L.png"], ("a/*.png", "a/*_L.png")),  # the masks lie beside
        (["x/img12.jpg", "x/img7.jpg"], ["y/gt12.png", "y/gt7.png"], ("x/*.jpg", "y/*.png")),
        (["i/s/1.png", "i/t/1.png"], ["l/s/1_gt.png", "l/t/1_gt.png"], ("i/**/*.png", "l/**/*.png")),
        (["i/u_0_leftImg8bit.png"], ["l/u_0_gtFine_labelIds.png"], ("i/*_leftImg8bit.png", "l/*_gtFine_labelIds.png")),
        (["i/u_0_left.png", "i/v_0_left.png"], ["l/u_0_gt.png", "l/v_0_gt.png"], ("i/*.png", "l/*.png")),
        (["i/a/1.png", "i/b/1.png"], ["l/a-1.png", "l/b-1.png"], ("i/a/*.png", "l/a-*.png")),
        (["1.x/7.png"], ["1.x/7.bmp"], ("*/*.png", "*/*.bmp")),
        (["i/7.x.png"], ["l/7.x.bmp"], ("i/*", "l/*")),
    ],
)
def test_names_that_differ_in_a_constant_part(
    tmp_path: Path, images: list[str], labels: list[str], patterns: tuple[str, str]
) -> None:
    touch(tmp_path, *images, *labels)
    found = pairs(globs(tmp_path, *patterns))
    assert found and set(found) <= set(zip(sorted(images), sorted(labels), strict=True))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a.png"], ["b.png"]),
        (["a_1.png"], ["a_2.png"]),
        (["img8left.png"], ["img9left.png"]),
        (["s_000.png", "s_001.png"], ["s_002.png", "s_003.png"]),
        (["1.png", "2.png"], ["10_mask.png", "20_mask.png"]),
    ],
)
def test_names_that_disagree_are_never_paired(tmp_path: Path, images: list[str], labels: list[str]) -> None:
    touch(tmp_path, *(f"images/{name}" for name in images), *(f"labels/{name}" for name in labels))
    with pytest.raises(UserError, match="paired by what the patterns leave open"):
        list_scenes(globs(tmp_path))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a", "b"], ["a_labelIds", "a_labelTrainIds", "b_labelIds", "b_labelTrainIds"]),
        (["cam_", "00-"], ["cam__mask", "cam_mask"]),
        (["a"], ["x_a", "y_a"]),
    ],
)
def test_two_labels_that_fit_equally_well_are_refused(tmp_path: Path, images: list[str], labels: list[str]) -> None:
    """The shorter name counted, and of 2,000 random trees one was paired wrongly."""
    touch(tmp_path, *(f"images/{name}.png" for name in images), *(f"labels/{name}.png" for name in labels))
    with pytest.raises(UserError, match="could belong to .* and to .*: write what all of these names share into"):
        list_scenes(globs(tmp_path))


def test_two_files_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.png", "images/1.PNG", "labels/1.png")
    with pytest.raises(UserError, match=r"own: .*images/1.PNG and .*images/1.png have the same name"):
        list_scenes(globs(tmp_path))


def test_patterns_that_find_the_same_files(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    with pytest.raises(UserError, match="nothing but label maps"):
        list_scenes(globs(tmp_path, "*.png", "*.png"))


@pytest.mark.parametrize(
    "name", ["set [v2]", "what?", "a*b", "do::ble", "100%", "it's", 'a "b"', "{x}", "ü", "n" * 250]
)
def test_folders_and_files_of_any_name(tmp_path: Path, name: str) -> None:
    """What is no pattern is used as it is: the root, and the files that a wildcard finds."""
    root = tmp_path / name
    touch(tmp_path / "set v", "images/other.png", "labels/other.png")
    touch(root, f"images/{name[:200]}.png", f"labels/{name[:200]}.png")
    assert pairs(globs(root)) == [(f"images/{name[:200]}.png", f"labels/{name[:200]}.png")]


def test_names_that_cannot_be_printed_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "labels/a\nb.png")
    with pytest.raises(UserError, match=r"own: .* holds 'a\\nb.png'"):
        list_scenes(Dataset(name="own", root=tmp_path, layout="globs", labels="labels/*", ids="train"))
    (tmp_path / "labels/a\nb.png").rename(tmp_path / b"labels/\xff.png".decode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"holds '\\udcff.png'") as error:
        list_scenes(Dataset(name="own", root=tmp_path, layout="globs", labels="labels/*", ids="train"))
    str(error.value).encode()


def test_case_06_links_to_folders_are_followed_but_not_round(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    touch(elsewhere, "images/b.png", "labels/b.png")
    root = tmp_path / "own"
    touch(root, "images/a.png", "labels/a.png")
    for kind in ("images", "labels"):
        (root / kind / "more").symlink_to(elsewhere / kind)
        (root / kind / "round").symlink_to(root)
        (root / kind / "self").symlink_to("self")
    assert pairs(globs(root, "images/**/*.png", "labels/**/*.png")) == [
        ("images/a.png", "labels/a.png"),
        ("images/more/b.png", "labels/more/b.png"),
    ]
    city = "frankfurt/f_000000_000000"
    touch(tmp_path / "cs", f"leftImg8bit/val/{city}_leftImg8bit.png", f"gtFine/val/{city}_gtFine_labelIds.png")
    touch(tmp_path / "there", "image/l_000001_000000_leftImg8bit.png", "label/l_000001_000000_gtFine_labelIds.png")
    (tmp_path / "cs/leftImg8bit/val/lindau").symlink_to(tmp_path / "there/image")
    (tmp_path / "cs/gtFine/val/lindau").symlink_to(tmp_path / "there/label")
    listing = list_scenes(Dataset(name="cs", root=tmp_path / "cs", layout="cityscapes"))
    assert [scene.id for scene in listing.scenes] == ["f_000000_000000", "l_000001_000000"]
    assert (listing.found, listing.published) == (2, 500)


def test_a_link_to_nowhere_is_a_file_that_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "labels/a.png", "labels/b.png")
    (tmp_path / "images/b.png").symlink_to(tmp_path / "nowhere.png")
    assert len(pairs(globs(tmp_path))) == 2


def test_case_21_endings_in_capitals_and_labels_without_an_image(tmp_path: Path) -> None:
    images, labels = "images/10k/val", "labels/sem_seg/masks/val"
    touch(tmp_path, f"{images}/000.jpg", f"{images}/001.JPG", f"{images}/002.JPG")
    touch(
        tmp_path, f"{labels}/001.png", f"{labels}/002.PNG", f"{labels}/003.png", f"{labels}/.003.png", ".hidden/a.png"
    )
    dataset = Dataset(name="bdd", root=tmp_path, layout="bdd100k")
    listing = list_scenes(dataset)
    assert pairs(dataset) == [(f"{images}/001.JPG", f"{labels}/001.png"), (f"{images}/002.JPG", f"{labels}/002.PNG")]
    assert [scene.id for scene in listing.unlabeled] == ["000"]
    assert [(s.label, s.image) for s in listing.imageless] == [
        (tmp_path / labels / "003.png", tmp_path / images / "003.jpg")
    ]
    (tmp_path / images / "000.jpg").unlink()
    assert not list_scenes(dataset).unlabeled


def test_capitals_and_hidden_files_in_globs(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.PNG", "images/.b.png", "images/.c/d.png", "labels/a.Png", "labels/.b.png")
    assert pairs(globs(tmp_path, "images/**/*.png", "labels/**/*.png")) == [("images/a.PNG", "labels/a.Png")]


def test_labels_of_either_kind_belong_to_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.png", "labels/1.png", "labels/1_labelTrainIds.PNG", "labels/2_labelTrainIds.png")
    listing = list_scenes(Dataset(name="gta", root=tmp_path, layout="gta"))
    assert [scene.label.name for scene in listing.scenes] == ["1_labelTrainIds.PNG"]
    assert [scene.label.name for scene in listing.imageless] == ["2_labelTrainIds.png"]


@pytest.mark.parametrize("pattern", ["", "/labels/*.png", "../labels/*.png", "a/../../b"])
def test_a_pattern_that_leads_out_of_the_root(pattern: str) -> None:
    with pytest.raises(ValidationError, match="must be relative to 'root' and stay below it"):
        globs(Path(), labels=pattern)


@pytest.mark.parametrize(
    "pattern", ["*/*.png", "**/*.png", "a/*.png", "?/x[0-9].png", "**/x[!1].png", "*/x?.png", "a/x1.png", "**", "b/**"]
)
def test_patterns_mean_what_pathlib_means_by_them(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "x1.png", "a/x1.png", "a/x2.png", "b/x1.png", "a/b/x1.png", "a/b/x[0].png", "b/y.txt")
    expected = tmp_path.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
    assert [match.path for match in matches(tmp_path, pattern)] == sorted(p for p in expected if p.is_file())


def test_an_unreadable_image_is_not_needed_to_pair(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "1.png")
    assert [scene.id for scene in find_scenes(globs(tmp_path, "2*", "1*").model_copy(update={"images": None}))] == ["1"]
