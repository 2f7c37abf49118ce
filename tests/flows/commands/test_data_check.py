"""`flexseg data check`: what is there, every problem of every data set, and where to get what is missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from flows.cli import app
from pipeline.data import layouts


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """GTA5 with two scenes of road and sky, and ACDC with two of fog and one of snow."""
    gta, acdc = tmp_path / "gta", tmp_path / "acdc"
    label = np.repeat(np.array([23, 7], np.uint8), 32)[:, None].repeat(128, 1)
    image = np.zeros((64, 128, 3), np.uint8)
    for k in range(2):
        save(gta / "images" / f"{k}.png", image)
        save(gta / "labels" / f"{k}.png", label)
    for condition, name in (("fog", "a"), ("fog", "b"), ("snow", "c")):
        save(acdc / "rgb_anon" / condition / "val" / "GOPR" / f"{name}_rgb_anon.png", image)
        save(acdc / "gt" / condition / "val" / "GOPR" / f"{name}_gt_labelIds.png", label)
    return gta, acdc


@pytest.fixture
def check(write_config: Callable[..., Path], stand_in_weights: Path, roots: tuple[Path, Path]) -> Callable[[], Result]:
    gta, acdc = roots
    source = {"name": "gta", "root": str(gta), "layout": "gta"}
    targets = [{"name": "acdc", "root": str(acdc), "layout": "acdc"}]
    config = write_config(stand_in_weights, data={"source": source, "targets": targets})
    return lambda: CliRunner().invoke(app, ["data", "check", str(config)], env={"COLUMNS": "220"})


def errors(result: Result) -> list[str]:
    assert "Traceback" not in result.output
    return [line for line in result.stderr.splitlines() if line.startswith("flexseg: ")]


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if GTA5 and ACDC were published with these two and three scenes."""
    monkeypatch.setitem(layouts.SCENES, ("gta", None), 2)
    monkeypatch.setitem(layouts.SCENES, ("acdc", "val"), 3)


@pytest.mark.usefixtures("small_splits")
def test_what_is_there(check: Callable[[], Result]) -> None:
    result = check()
    assert result.exit_code == 0, result.output
    gta, acdc = (next(line for line in result.stdout.splitlines() if name in line) for name in ("gta", "acdc"))
    assert "2 of" not in gta and "128\u00d764" in gta and "16,384" in gta and "sidewalk" in gta and "road," not in gta
    assert "fog 2, snow 1" in acdc
    assert errors(result) == []


def test_case_06_an_incomplete_split_is_a_problem(check: Callable[[], Result]) -> None:
    result = check()
    assert result.exit_code == 2
    assert "2 of 24,966" in result.stdout and "3 of 406" in result.stdout
    gta, acdc = errors(result)
    assert "gta: incomplete: 2 of the 24,966 scenes of this split are there; get it from GTA5" in gta
    assert "acdc: incomplete: 3 of the 406 scenes" in acdc


@pytest.mark.usefixtures("small_splits")
def test_case_21_what_has_no_partner_is_named(check: Callable[[], Result], roots: tuple[Path, Path]) -> None:
    gta, _ = roots
    (gta / "images" / "1.png").rename(gta / "images" / "2.PNG")
    result = check()
    assert result.exit_code == 2
    image, label = errors(result)
    assert f"image {gta}/images/2.PNG has no label, wanted {gta}/labels/2_labelTrainIds.png" in image
    assert f"label map {gta}/labels/1.png has no image" in label


@pytest.mark.usefixtures("small_splits")
def test_train_ids_that_are_read_as_label_ids(check: Callable[[], Result], roots: tuple[Path, Path]) -> None:
    gta, _ = roots
    for k in range(2):
        save(gta / "labels" / f"{k}.png", np.repeat(np.array([10, 0], np.uint8), 32)[:, None].repeat(128, 1))
    result = check()
    assert result.exit_code == 2
    ignored, values = errors(result)
    assert "100.0% of all px are ignored" in ignored and "hold only the values 0, 10, as train ids do" in values


@pytest.mark.usefixtures("small_splits")
def test_every_problem_of_every_data_set(check: Callable[[], Result], roots: tuple[Path, Path]) -> None:
    gta, acdc = roots
    save(gta / "labels" / "1.png", np.full((64, 120), 7, np.uint8))
    fog = acdc / "rgb_anon" / "fog" / "val" / "GOPR"
    (fog / "a_rgb_anon.png").write_bytes((fog / "a_rgb_anon.png").read_bytes()[:-30])
    save(acdc / "gt" / "fog" / "val" / "GOPR" / "b_gt_labelIds.png", np.full((64, 128), 77, np.uint8))
    (acdc / "gt" / "snow" / "val" / "GOPR" / "c_gt_labelIds.png").unlink()
    result = check()
    assert result.exit_code == 2
    sizes, missing, truncated, unknown = errors(result)
    assert "gta" in sizes and "1.png is 128x64 px" in sizes and "120x64 px" in sizes
    assert "a_rgb_anon.png: cannot be read" in truncated
    assert "label id 77 (8192 px)" in unknown
    assert "c_rgb_anon.png has no label, wanted" in missing and "c_gt_labelTrainIds.png" in missing


@pytest.mark.usefixtures("small_splits")
def test_a_missing_folder_says_where_to_get_it_and_the_rest_is_checked(
    check: Callable[[], Result], roots: tuple[Path, Path]
) -> None:
    gta, _ = roots
    (gta / "images").rename(gta / "pictures")
    result = check()
    assert result.exit_code == 2
    (line,) = errors(result)
    assert f"{gta}/images not found" in line and "get it from GTA5" in line
    assert "fog 2, snow 1" in result.stdout
