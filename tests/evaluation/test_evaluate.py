"""evaluate(): scores from files on disk, pictures, skipped files, resume."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evaluation.evaluate import evaluate
from evaluation.images import read_images
from evaluation.inference import Prediction
from pipeline.config.evaluation import EvaluationConfig
from pipeline.datasets import Scene
from pipeline.errors import UserError
from pipeline.labels import IGNORE, TRAIN_IDS
from pipeline.progress import silent

T = TypeVar("T")


def write_scenes(folder: Path, count: int, size: tuple[int, int] = (16, 24)) -> list[Scene]:
    """Scenes whose image holds its own label map in the red channel, so that a predictor can read the truth."""
    folder.mkdir(parents=True)
    scenes = []
    for index in range(count):
        label = np.full(size, 2, np.uint8)
        label[:, : size[1] // 2] = index % 3
        label[0] = IGNORE
        image = np.repeat(label[..., None], 3, axis=2)
        scene = Scene(f"scene{index}", folder / f"{index}.png", folder / f"{index}_label.png", TRAIN_IDS)
        Image.fromarray(image).save(folder / f"{index}.png")
        Image.fromarray(label).save(scene.label)
        scenes.append(scene)
    return scenes


def read_truth(images: NDArray[np.uint8], size: tuple[int, int]) -> Prediction:
    return Prediction(np.where(images[..., 0] == IGNORE, 0, images[..., 0]).astype(np.uint8))


def road_everywhere(images: NDArray[np.uint8], size: tuple[int, int]) -> Prediction:
    return Prediction(np.zeros(images.shape[:3], np.uint8))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    domains: dict[str, dict[str, Any]] = json.loads((folder / "evaluation.json").read_text())["domains"]
    return domains


def test_a_perfect_and_a_constant_predictor(tmp_path: Path) -> None:
    domains = {"fog": write_scenes(tmp_path / "fog", 6), "rain": write_scenes(tmp_path / "rain", 2, (8, 8))}
    evaluate(read_truth, domains, EvaluationConfig(), tmp_path / "perfect", progress=silent)
    perfect = results(tmp_path / "perfect")
    assert list(perfect) == ["fog", "rain"]
    assert perfect["fog"]["miou"] == perfect["fog"]["pixel_accuracy"] == 1
    assert perfect["fog"]["boundary_error"] == perfect["fog"]["interior_error"] == 0
    assert perfect["fog"]["iou"] == [1, 1, 1] + [None] * 16
    assert perfect["fog"]["images"] == 6
    assert perfect["fog"]["scale"] == "1 × 24×16 px"

    evaluate(road_everywhere, domains, EvaluationConfig(), tmp_path / "road", progress=silent)
    road = results(tmp_path / "road")["fog"]
    # 6 scenes of 15 labeled rows x 24 columns, of which 2 scenes are half road.
    assert road["pixel_accuracy"] == pytest.approx(2 * 15 * 12 / (6 * 15 * 24))
    assert sum(map(sum, road["confusion"])) == 6 * 15 * 24
    assert road["miou"] == pytest.approx(road["iou"][0] / 3)


def test_predictions_are_kept_as_palette_pictures_of_train_ids(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "fog", 6)
    evaluate(read_truth, {"fog": scenes}, EvaluationConfig(keep_predictions=2), tmp_path / "out", progress=silent)
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
    evaluate(read_truth, {"fog": scenes}, EvaluationConfig(), tmp_path / "out", progress=silent)
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
    evaluate(read_truth, {"fog": scenes}, EvaluationConfig(), tmp_path / "out", progress=silent)
    fog = results(tmp_path / "out")["fog"]
    assert fog["miou"] is None
    assert fog["boundary_error"] is None
    assert len(fog["skipped"]) == 2


def test_an_interrupted_evaluation_continues_with_the_next_domain(tmp_path: Path) -> None:
    domains = {name: write_scenes(tmp_path / name, 3) for name in ("fog", "rain")}
    seen = []

    def track(items: Iterable[T], /, *, total: int, description: str, done: int = 0, **options: object) -> Iterator[T]:
        seen.append((description, total))
        yield from items

    def interrupted(images: NDArray[np.uint8], size: tuple[int, int]) -> Prediction:
        if seen[-1][0] == "rain":
            raise KeyboardInterrupt
        return read_truth(images, size)

    with pytest.raises(KeyboardInterrupt):
        evaluate(interrupted, domains, EvaluationConfig(), tmp_path / "out", progress=track)
    assert list(results(tmp_path / "out")) == ["fog"]
    evaluate(read_truth, domains, EvaluationConfig(), tmp_path / "out", progress=track)
    assert seen == [("fog", 3), ("rain", 3), ("rain", 3)]
    assert results(tmp_path / "out")["rain"]["miou"] == 1


def test_conditions_are_scored_by_themselves(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "acdc", 6)
    weathers = ["snow", None, "fog", "snow", "fog", "fog"]
    scenes = [replace(scene, condition=weather) for scene, weather in zip(scenes, weathers, strict=True)]
    evaluate(road_everywhere, {"acdc": scenes}, EvaluationConfig(), tmp_path / "out", progress=silent)
    acdc = results(tmp_path / "out")["acdc"]
    assert list(acdc["conditions"]) == ["fog", "snow"] and acdc["images"] == 6
    for weather in ("fog", "snow"):
        alone = [scene for scene in scenes if scene.condition == weather]
        evaluate(road_everywhere, {"it": alone}, EvaluationConfig(), tmp_path / weather, progress=silent)
        expected = results(tmp_path / weather)["it"]
        assert acdc["conditions"][weather] == {key: expected[key] for key in acdc["conditions"][weather]}
    images = read_images(tmp_path / "out", "acdc")
    assert images.ids.tolist() == [scene.id for scene in scenes]
    assert images.where("fog").confusion.sum(axis=0).tolist() == acdc["conditions"]["fog"]["confusion"]


def test_curve_and_calibration(tmp_path: Path) -> None:
    def confident(images: NDArray[np.uint8], size: tuple[int, int]) -> Prediction:
        return Prediction(read_truth(images, size).labels, np.full(images.shape[:3], 0.95, np.float32))

    scenes = {"fog": write_scenes(tmp_path / "fog", 2), "empty": []}
    evaluate(confident, scenes, EvaluationConfig(band=4, curve=(1, 2)), tmp_path / "out", progress=silent)
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
    seen = []

    def noted(images: NDArray[np.uint8], size: tuple[int, int]) -> Prediction:
        seen.append((len(images), size))
        return read_truth(images, size)

    config = EvaluationConfig(scale=2, keep_predictions="all")
    evaluate(noted, {"fog": scenes}, config, tmp_path / "three", progress=silent, batch_size=3)
    assert seen == [(3, (32, 48)), (1, (32, 48)), (2, (16, 16))]
    evaluate(noted, {"fog": scenes}, config, tmp_path / "one", progress=silent)
    assert results(tmp_path / "three") == results(tmp_path / "one")
    assert results(tmp_path / "one")["fog"]["predictions"] == ["0", "1", "3", "4", "5", "6"]
    assert results(tmp_path / "one")["fog"]["scale"] == "2 × 8×8 to 24×16 px"


def test_a_segmenter_that_gives_no_numbers_is_named(tmp_path: Path) -> None:
    def broken(images: NDArray[np.uint8], size: tuple[int, int]) -> Prediction:
        return Prediction(road_everywhere(images, size).labels, np.full(images.shape[:3], np.nan, np.float32))

    with pytest.raises(UserError, match=r"fog, scene0: .*not a number"):
        scenes = write_scenes(tmp_path / "fog", 2)
        evaluate(broken, {"fog": scenes}, EvaluationConfig(), tmp_path / "out", progress=silent)


def test_truncated_photographs_are_skipped(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "fog", 3, (64, 64))
    photo = tmp_path / "fog" / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(photo)
    photo.write_bytes(photo.read_bytes()[:-500])
    scenes[1] = replace(scenes[1], image=photo)
    evaluate(road_everywhere, {"fog": scenes}, EvaluationConfig(), tmp_path / "out", progress=silent, batch_size=2)
    fog = results(tmp_path / "out")["fog"]
    assert fog["images"] == 2 and [entry["id"] for entry in fog["skipped"]] == ["scene1"]
    assert "photo.jpg: cannot be read" in fog["skipped"][0]["reason"]
