"""evaluate(): scores from files on disk, pictures, skipped files, resume."""

import json
import time
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from evaluation.counts import read_image_counts
from evaluation.inference import Predict, PredictedLabels
from evaluation.parts import read_part
from evaluation.scoring import Task, load_scorer
from pipeline.config.evaluation import EvaluationConfig
from pipeline.errors import UserError
from pipeline.files import file_stem
from pipeline.store.manifest import file_table
from tests.scored import read_truth, score, write_scenes
from tests.tracks import counting, interrupted_after


def road_everywhere(images: NDArray[np.uint8], size: tuple[int, int]) -> PredictedLabels:
    return PredictedLabels(np.zeros(images.shape[:3], np.uint8))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    domains: dict[str, dict[str, Any]] = json.loads((folder / "evaluation.json").read_text())["domains"]
    return domains


def test_a_perfect_and_a_constant_predictor(tmp_path: Path) -> None:
    domains = {"fog": write_scenes(tmp_path / "fog", 6), "rain": write_scenes(tmp_path / "rain", 2, (8, 8))}
    score(read_truth, domains, EvaluationConfig(), tmp_path / "perfect")
    perfect = results(tmp_path / "perfect")
    assert list(perfect) == ["fog", "rain"]
    assert perfect["fog"]["miou"] == perfect["fog"]["pixel_accuracy"] == 1
    assert perfect["fog"]["boundary_error"] == perfect["fog"]["interior_error"] == 0
    assert perfect["fog"]["iou"] == [1, 1, 1] + [None] * 16
    assert perfect["fog"]["images"] == 6
    assert perfect["fog"]["scale"] == "1 × 24×16 px"

    score(road_everywhere, domains, EvaluationConfig(), tmp_path / "road")
    road = results(tmp_path / "road")["fog"]
    # 6 scenes of 15 labeled rows x 24 columns, of which 2 scenes are half road.
    assert road["pixel_accuracy"] == pytest.approx(2 * 15 * 12 / (6 * 15 * 24))
    assert sum(map(sum, road["confusion"])) == 6 * 15 * 24
    assert road["miou"] == pytest.approx(road["iou"][0] / 3)


def test_predictions_are_kept_as_palette_pictures_of_train_ids(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "fog", 6)
    score(read_truth, {"fog": scenes}, EvaluationConfig(keep_predictions=2), tmp_path / "out")
    files = sorted((tmp_path / "out" / "predictions" / "fog").iterdir())
    assert (
        [file.name for file in files]
        == ["scene0.png", "scene5.png"]
        == [f"{name}.png" for name in results(tmp_path / "out")["fog"]["predictions"]]
    )
    with Image.open(files[1]) as picture:
        assert picture.mode == "P"
        assert set(np.unique(np.asarray(picture))) == {0, 2}
        assert picture.convert("RGB").getpixel((0, 5)) == (70, 70, 70)  # building


def test_bad_files_are_skipped_with_their_reason_and_the_rest_counts(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "fog", 6)
    truncated = tmp_path / "fog" / "0.png"
    truncated.write_bytes(truncated.read_bytes()[:60])
    Image.new("L", (5, 5)).save(scenes[1].label)
    Image.fromarray(np.full((16, 24), 77, np.uint8)).save(scenes[2].label)
    scenes[3].label.unlink()
    score(read_truth, {"fog": scenes}, EvaluationConfig(), tmp_path / "out")
    fog = results(tmp_path / "out")["fog"]
    assert fog["images"] == 2
    assert fog["miou"] == 1
    assert [entry["id"] for entry in fog["skipped"]] == ["scene0", "scene1", "scene2", "scene3"]
    reasons = ("cannot be read", "sizes differ", "label id 77", "not found")
    for entry, words in zip(fog["skipped"], reasons, strict=True):
        assert words in entry["reason"]
        assert "\n" not in entry["reason"]


def test_a_domain_without_any_usable_file_has_no_score(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "fog", 2)
    for scene in scenes:
        scene.label.unlink()
    score(read_truth, {"fog": scenes}, EvaluationConfig(), tmp_path / "out")
    fog = results(tmp_path / "out")["fog"]
    assert fog["miou"] is None
    assert fog["boundary_error"] is None
    assert len(fog["skipped"]) == 2


def test_an_interrupted_evaluation_scores_no_unit_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.evaluate.UNIT", 2)
    domains = {"a/fog": write_scenes(tmp_path / "fog", 5), "rain": write_scenes(tmp_path / "rain", 3)}
    domains["a/fog"][3].label.unlink()
    config = EvaluationConfig(keep_predictions="all")
    score(read_truth, domains, config, tmp_path / "whole")
    seen: list[object] = []

    def noted(images: NDArray[np.uint8], size: tuple[int, int]) -> PredictedLabels:
        seen.extend(images[:, -1, -1])
        return read_truth(images, size)

    with pytest.raises(KeyboardInterrupt):
        score(noted, domains, config, tmp_path / "out", progress=interrupted_after(5))
    assert sorted(path.name for path in (tmp_path / "out/.work/parts").iterdir()) == [
        f"{file_stem('a/fog')}-0000{k}-of-00003.npz" for k in range(3)
    ]
    before, ticks = len(seen), list[object]()
    score(noted, domains, config, tmp_path / "out", progress=counting(ticks))
    assert (len(seen) - before, len(ticks)) == (3, 3), "rain alone was left"
    assert file_table(tmp_path / "out") == file_table(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".work", "evaluation.json", "images", "predictions"}
    assert results(tmp_path / "out")["a/fog"]["predictions"] == ["scene0", "scene1", "scene2", "scene4"]
    assert [item["id"] for item in results(tmp_path / "out")["a/fog"]["skipped"]] == ["scene3"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "swapped", "another's"])
def test_damaged_parts_of_an_interrupted_evaluation_are_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Case F07: an empty part ended in "Aborted.", a cut one in a traceback."""
    monkeypatch.setattr("evaluation.evaluate.UNIT", 2)
    domains = {"fog": write_scenes(tmp_path / "fog", 6)}
    score(read_truth, domains, EvaluationConfig(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        score(read_truth, domains, EvaluationConfig(), tmp_path / "out", progress=interrupted_after(4))
    first, second = sorted((tmp_path / "out/.work/parts").iterdir())[:2]
    data, other = first.read_bytes(), second.read_bytes()
    changed = {"flipped": bytes([*data[:99], data[99] ^ 1, *data[100:]]), "cut": data[:-5], "empty": b""}
    first.write_bytes(changed.get(damage, other))
    if damage == "swapped":
        second.write_bytes(data)
    ticks: list[object] = []
    score(read_truth, domains, EvaluationConfig(), tmp_path / "out", progress=counting(ticks))
    assert file_table(tmp_path / "out") == file_table(tmp_path / "whole")
    assert len(ticks) >= (4 if damage == "swapped" else 2)


def test_a_finished_evaluation_is_left_alone(tmp_path: Path) -> None:
    domains = {"fog": write_scenes(tmp_path / "fog", 1)}
    score(read_truth, domains, EvaluationConfig(), tmp_path / "out")
    made = file_table(tmp_path / "out")
    score(road_everywhere, domains, EvaluationConfig(), tmp_path / "out")
    assert file_table(tmp_path / "out") == made


def test_conditions_are_scored_by_themselves(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "acdc", 6)
    weathers = ["snow", None, "fog", "snow", "fog", "fog"]
    scenes = [replace(scene, condition=weather) for scene, weather in zip(scenes, weathers, strict=True)]
    score(road_everywhere, {"acdc": scenes}, EvaluationConfig(), tmp_path / "out")
    acdc = results(tmp_path / "out")["acdc"]
    assert list(acdc["conditions"]) == ["fog", "snow"] and acdc["images"] == 6
    for weather in ("fog", "snow"):
        alone = [scene for scene in scenes if scene.condition == weather]
        score(road_everywhere, {"it": alone}, EvaluationConfig(), tmp_path / weather)
        expected = results(tmp_path / weather)["it"]
        assert acdc["conditions"][weather] == {key: expected[key] for key in acdc["conditions"][weather]}
    images = read_image_counts(tmp_path / "out", "acdc")
    assert images.ids.tolist() == [scene.id for scene in scenes]
    assert images.where("fog").confusion.sum(axis=0).tolist() == acdc["conditions"]["fog"]["confusion"]


def test_curve_and_calibration(tmp_path: Path) -> None:
    def confident(images: NDArray[np.uint8], size: tuple[int, int]) -> PredictedLabels:
        return PredictedLabels(read_truth(images, size).labels, np.full(images.shape[:3], 0.95, np.float32))

    scenes = {"fog": write_scenes(tmp_path / "fog", 2), "empty": []}
    score(confident, scenes, EvaluationConfig(band=4, curve=(1, 2)), tmp_path / "out")
    fog, empty = (results(tmp_path / "out")[name] for name in ("fog", "empty"))
    assert fog["curve"] == {
        "px": [1, 2, 4],
        "boundary": [0] * 3,
        "interior": [0] * 3,
        "share": [2 / 24, 4 / 24, 8 / 24],
    }
    assert fog["calibration"]["ece"] == pytest.approx(0.05, abs=1e-4)
    pixels = 2 * 15 * 24
    assert fog["calibration"]["bins"][14] == {
        "confidence": pytest.approx(0.95, abs=1e-4),
        "accuracy": 1,
        "pixels": pixels,
    }
    assert fog["calibration"]["bins"][3] == {"confidence": None, "accuracy": None, "pixels": 0}
    assert empty["images"] == 0 and empty["scale"] == "no image" and empty["conditions"] == {}
    numbers = [empty["miou"], empty["pixel_accuracy"], *empty["curve"]["boundary"], empty["calibration"]["ece"]]
    assert set(numbers) == {None} and "NaN" not in (tmp_path / "out" / "evaluation.json").read_text()


def test_batches_hold_images_of_one_size_and_change_nothing(tmp_path: Path) -> None:
    scenes = [*write_scenes(tmp_path / "a", 5), *write_scenes(tmp_path / "b", 2, (8, 8))]
    scenes = [replace(scene, id=str(k)) for k, scene in enumerate(scenes)]
    scenes[2].label.unlink()
    config = EvaluationConfig(scale=2, keep_predictions="all")
    seen: dict[str, list[tuple[int, tuple[int, int]]]] = {}

    def load(device: str, batch_size: int) -> Predict:
        assert batch_size == {"cpu": 1, "cuda:0": 3}[device]
        seen[device] = []

        def noted(images: NDArray[np.uint8], size: tuple[int, int]) -> PredictedLabels:
            seen[device].append((len(images), size))
            return read_truth(images, size)

        return noted

    for device in ("cpu", "cuda:0"):  # what runs on it is up to `load`
        items = load_scorer(load, config, 3, device)(Task("fog", scenes, frozenset("014")), tmp_path / device)
        assert len(list(items)) == 7
    assert seen["cuda:0"] == [(3, (32, 48)), (1, (32, 48)), (2, (16, 16))]
    assert seen["cpu"] == [(1, (32, 48))] * 4 + [(1, (16, 16))] * 2
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "cuda:0").read_bytes()
    part = read_part(tmp_path / "cpu", [scene.id for scene in scenes], config.widths)
    assert part is not None
    assert part.counts.ids.tolist() == ["0", "1", "3", "4", "5", "6"] and part.sizes == {(16, 24), (8, 8)}
    assert list(part.pictures) == ["0", "1", "4"] and [item.id for item in part.skipped] == ["2"]


@pytest.mark.parametrize("cores", [1, 2, 9])
def test_the_cpu_computes_in_as_many_threads_as_are_wanted_with_one_core_each(tmp_path: Path, cores: int) -> None:
    scenes = write_scenes(tmp_path / "fog", 8)
    running, most, inner = 0, 0, set()
    lock = Lock()

    def noted(images: NDArray[np.uint8], size: tuple[int, int]) -> PredictedLabels:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        inner.add(torch.get_num_threads())
        time.sleep(0.05)
        with lock:
            running -= 1
        return read_truth(images, size)

    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        make = load_scorer(lambda device, batch_size: noted, EvaluationConfig(), 4, "cpu")
        list(make(Task("fog", scenes, frozenset()), tmp_path / "part"))
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    assert (most, inner) == (min(cores, 4), {1})


def test_a_segmenter_that_gives_no_numbers_is_named(tmp_path: Path) -> None:
    def broken(images: NDArray[np.uint8], size: tuple[int, int]) -> PredictedLabels:
        return PredictedLabels(road_everywhere(images, size).labels, np.full(images.shape[:3], np.nan, np.float32))

    with pytest.raises(UserError, match=r"fog, scene0: .*not a number"):
        scenes = write_scenes(tmp_path / "fog", 2)
        score(broken, {"fog": scenes}, EvaluationConfig(), tmp_path / "out")


def test_truncated_photographs_are_skipped(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "fog", 3, (64, 64))
    photo = tmp_path / "fog" / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(photo)
    photo.write_bytes(photo.read_bytes()[:-500])
    scenes[1] = replace(scenes[1], image=photo)
    score(road_everywhere, {"fog": scenes}, EvaluationConfig(), tmp_path / "out")
    fog = results(tmp_path / "out")["fog"]
    assert fog["images"] == 2 and [entry["id"] for entry in fog["skipped"]] == ["scene1"]
    assert "photo.jpg: cannot be read" in fog["skipped"][0]["reason"]
