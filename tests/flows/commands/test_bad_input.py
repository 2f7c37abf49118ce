"""Bad input through the command line: one line that says what came and how to fix it, exit code 2, nothing lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows import data_stages, stages
from flows.cli import app
from flows.domains import say
from flows.run import Run
from pipeline.config.experiment import load_config
from pipeline.store.artifacts import ArtifactStore, Stage


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two scenes of road and sky in GTA's layout."""
    root = tmp_path / "gta"
    for k in range(2):
        save(root / "images" / f"{k}.png", np.random.default_rng(k).integers(0, 255, (64, 128, 3)).astype(np.uint8))
        save(root / "labels" / f"{k}.png", np.repeat(np.array([23, 7], np.uint8), 32)[:, None].repeat(128, 1))
    return root


@pytest.fixture
def config(tmp_path: Path, dataset: Path, write_config: Callable[..., Path], stand_in_weights: Path) -> Path:
    """The miniature on that data, with one artifact of an earlier stage in its store."""
    store = ArtifactStore(tmp_path / "store")

    def build(folder: Path) -> None:
        (folder / "made.txt").write_text("before")

    store.get_or_build(Stage("earlier", 1), {}, {}, build)
    source = {"name": "gta", "root": str(dataset), "layout": "gta"}
    return write_config(stand_in_weights, data={"source": source, "targets": [{**source, "name": "target"}]})


def fails(tmp_path: Path, *arguments: str) -> str:
    """Runs the command; its one line of error, after checking that it is one and that the store is whole."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("flexseg: ")]
    assert len(lines) == 1 and result.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.output
    earlier = ArtifactStore(tmp_path / "store").find(Stage("earlier", 1), {}, {})
    assert earlier is not None and (earlier.folder / "made.txt").read_text() == "before"
    return lines[0]


@pytest.mark.parametrize(
    "command", [["run"], ["plan"], ["generate"], ["train", "--method", "flex-seg"], ["data", "check"]]
)
def test_unknown_config_key(tmp_path: Path, config: Path, command: list[str]) -> None:
    line = fails(tmp_path, *command, str(config), "--set", "training.iteratons=3")
    assert "unknown key 'training.iteratons'" in line and "did you mean 'iterations'" in line


@pytest.mark.parametrize("command", [["run"], ["plan"], ["generate"], ["train", "--method", "source-only"]])
def test_missing_folder(tmp_path: Path, config: Path, dataset: Path, command: list[str]) -> None:
    (dataset / "images").rename(dataset / "pictures")
    line = fails(tmp_path, *command, str(config))
    assert f"{dataset}/images not found" in line


@pytest.mark.parametrize("command", [["generate"], ["train", "--method", "source-only"]])
def test_label_id_out_of_range(tmp_path: Path, config: Path, dataset: Path, command: list[str]) -> None:
    save(dataset / "labels" / "1.png", np.full((64, 128), 77, np.uint8))
    line = fails(tmp_path, *command, str(config))
    assert f"{dataset}/labels/1.png: label id 77 (8192 px)" in line and "'ids'" in line


def test_pairs_of_different_sizes_are_left_out_of_training(
    config: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(dataset / "labels" / "1.png", np.full((64, 120), 7, np.uint8))
    run = Run(load_config(config))
    stages.check(run)
    data_stages.labels(run)
    assert run.training_rows == [0]
    assert "gta: 1 of 2 scenes are left out of training" in capsys.readouterr().err


def test_what_is_missing_of_a_data_set_is_said_once(
    config: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 06 in a run."""
    say.cache_clear()
    for _ in range(2):
        assert len(Run(load_config(config)).source.scenes) == 2
    (incomplete,) = capsys.readouterr().err.splitlines()
    assert incomplete == "note: gta: incomplete, 2 of the 24,966 scenes of this split are there"


def test_case_21_a_label_without_an_image_is_what_data_check_calls_it(
    tmp_path: Path, config: Path, dataset: Path
) -> None:
    """A note of the run, and a problem of the check: which of them was right?"""
    save(dataset / "labels" / "7.png", np.full((64, 128), 7, np.uint8))
    wanted = f"gta: label map {dataset}/labels/7.png has no image, wanted {dataset}/images/7.png"
    for command in (("run",), ("generate",), ("train", "--method", "source-only"), ("plan",)):
        assert wanted in fails(tmp_path, *command, str(config))
    checked = CliRunner().invoke(app, ["data", "check", str(config)])
    assert checked.exit_code == 2 and any(wanted in line for line in checked.stderr.splitlines())


def test_a_source_without_one_usable_pair(tmp_path: Path, config: Path, dataset: Path) -> None:
    for k in range(2):
        save(dataset / "labels" / f"{k}.png", np.full((64, 120), 7, np.uint8))
    line = fails(tmp_path, "run", str(config))
    assert f"{dataset}/images/0.png is 128x64 px" in line and f"{dataset}/labels/0.png is 120x64 px" in line


@pytest.mark.parametrize("command", [["run"], ["train", "--method", "source-only"]])
def test_case_15_an_image_smaller_than_the_crop_is_named(
    tmp_path: Path, config: Path, dataset: Path, command: list[str]
) -> None:
    save(dataset / "images" / "1.png", np.zeros((30, 128, 3), np.uint8))
    save(dataset / "labels" / "1.png", np.full((30, 128), 7, np.uint8))
    line = fails(tmp_path, *command, str(config))
    assert f"{dataset}/images/1.png is 128x30 px, smaller than training.crop of 64x32 px" in line
    line = fails(tmp_path, *command, str(config), "--set", "training.source_size=[20,200]")
    assert "is resized to 200x20 px, smaller" in line


def test_case_17_training_on_nothing_is_refused(tmp_path: Path, config: Path, dataset: Path) -> None:
    for k in range(2):
        save(dataset / "labels" / f"{k}.png", np.full((64, 128), 3, np.uint8))
    arguments = ["train", str(config), "--method", "source-only", "--set", "training.rare_classes=false"]
    assert "gta: none of the 2 label maps holds a class" in fails(tmp_path, *arguments)
    assert not list((tmp_path / "store").glob("segmenter*/*"))


@pytest.mark.parametrize("command", [["generate"], ["train", "--method", "source-only"]])
def test_truncated_label(tmp_path: Path, config: Path, dataset: Path, command: list[str]) -> None:
    path = dataset / "labels" / "1.png"
    path.write_bytes(path.read_bytes()[:-30])
    line = fails(tmp_path, *command, str(config))
    assert f"{path}: cannot be read as an image" in line and "truncated" in line


def test_missing_generator(tmp_path: Path, config: Path) -> None:
    assert "generation.weights" in fails(tmp_path, "run", str(config), "--set", "generation.weights=nowhere")


def test_missing_model(tmp_path: Path, config: Path) -> None:
    assert "no artifact's key starts" in fails(tmp_path, "evaluate", str(config), "--model", "nowhere")


def test_damaged_artifact(tmp_path: Path, config: Path) -> None:
    data_stages.labels(Run(load_config(config)))
    damaged = next((tmp_path / "store" / "labels").glob("*/class_pixels.npy"))
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    line = fails(tmp_path, "generate", str(config))
    assert str(damaged) in line and f"delete the folder {damaged.parent}" in line


def test_output_that_is_there_already(tmp_path: Path, config: Path, dataset: Path) -> None:
    assert "name a new folder" in fails(tmp_path, "generate", str(config), "--output", str(dataset))


def test_weights_without_a_section(tmp_path: Path, config: Path) -> None:
    assert "no 'weights' or 'pretraining' section" in fails(
        tmp_path, "weights", "train", str(config), "--output", str(tmp_path / "new")
    )


def test_interrupt_is_one_line_and_130(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.config.experiment.load_config", interrupted)
    result = CliRunner().invoke(app, ["plan", str(config)])
    assert result.exit_code == 130
    assert result.stderr.splitlines() == [
        "flexseg: interrupted; what was finished is kept, the same command continues from there"
    ]


def test_bad_files_of_a_target_are_skipped_listed_and_told_by_the_exit_code(
    tmp_path: Path, config: Path, dataset: Path
) -> None:
    from training.networks import Segmenter  # only this test waits for transformers

    Segmenter.create(load_config(config).training.network, 0).save_pretrained(tmp_path / "model")
    arguments = ["evaluate", str(config), "--model", str(tmp_path / "model")]
    whole = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert whole.exit_code == 0 and "1 \u00d7 128\u00d764 px" in whole.stdout, whole.output

    photo, label = dataset / "images" / "1.png", dataset / "labels" / "0.png"
    photo.write_bytes(photo.read_bytes()[:-30])
    save(dataset / "labels" / "2.png", np.full((64, 128), 7, np.uint8))
    label.unlink()
    bad = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert bad.exit_code == 2 and "Traceback" not in bad.output
    lines = [line for line in bad.stderr.splitlines() if line.startswith("flexseg: target: skipped")]
    places = (dataset / "labels" / "0", photo, dataset / "images" / "2.png")
    assert [str(place) in line for place, line in zip(places, lines, strict=True)] == [True] * 3
    assert next(line for line in bad.stdout.splitlines() if "no image" in line).count("-") >= 5
