"""evaluate(): scores from files on disk, pictures, skipped files, resume."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evaluation.evaluate import evaluate
from pipeline.config.evaluation import EvaluationConfig
from pipeline.datasets import Scene
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


def read_truth(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(image[..., 0] == IGNORE, 0, image[..., 0]).astype(np.uint8)


def road_everywhere(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.zeros(image.shape[:2], np.uint8)


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
        == ["scene0.png", "scene1.png"]
        == [f"{name}.png" for name in results(tmp_path / "out")["fog"]["predictions"]]
    )
    with Image.open(files[1]) as picture:
        assert picture.mode == "P"
        assert set(np.unique(np.asarray(picture))) == {0, 1, 2}
        assert picture.convert("RGB").getpixel((0, 5)) == (244, 35, 232)  # sidewalk


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

    def track(items: Iterable[T], /, *, total: int, description: str, done: int = 0) -> Iterator[T]:
        seen.append((description, total))
        yield from items

    def interrupted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if seen[-1][0] == "rain":
            raise KeyboardInterrupt
        return read_truth(image)

    with pytest.raises(KeyboardInterrupt):
        evaluate(interrupted, domains, EvaluationConfig(), tmp_path / "out", progress=track)
    assert list(results(tmp_path / "out")) == ["fog"]
    evaluate(read_truth, domains, EvaluationConfig(), tmp_path / "out", progress=track)
    assert seen == [("fog", 3), ("rain", 3), ("rain", 3)]
    assert results(tmp_path / "out")["rain"]["miou"] == 1
