"""A whole small experiment's results, made in seconds: toy town scenes, and true labels spoiled as predictions."""

import fcntl
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from evaluation import figures, gallery
from evaluation.inference import Predict, PredictedLabels
from evaluation.report import build_report
from evaluation.summary import ReportContent, TrainedModel
from pipeline.config.evaluation import EvaluationConfig
from pipeline.data.datasets import Scene
from pipeline.data.image_files import read_image
from pipeline.data.labels import IGNORE, NUM_CLASSES, TRAIN_IDS, load_label_map
from pipeline.seeding import random_generator
from pipeline.toytown import TARGETS, render_source, render_target
from tests.scored import score

SIZE = (64, 128)
SPOILED = {"source only": 0.5, "generated": 0.35, "flexseg": 0.2}
"""Share of 8 px blocks that a method's predictions get wrong."""


def write_scenes(folder: Path, domain: str, count: int = 2) -> list[Scene]:
    folder.mkdir(parents=True)
    scenes = []
    for index in range(count):
        rendering = render_target(domain, 0, index, SIZE)
        name = f"{domain}_{index}"
        Image.fromarray(rendering.image).save(folder / f"{name}.png")
        Image.fromarray(rendering.label).save(folder / f"{name}_label.png")
        scenes.append(Scene(name, folder / f"{name}.png", folder / f"{name}_label.png", TRAIN_IDS))
    return scenes


def spoiled_predictor(scenes: list[Scene], method: str, seed: int) -> Predict:
    """Knows the truth by heart, but shifts it and gets blocks of it wrong."""
    truth = {read_image(s.image).tobytes(): load_label_map(s.label, s.ids) for s in scenes if s.image is not None}

    def spoiled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        label = truth[image.tobytes()]
        rng = random_generator(method, seed, image.tobytes())
        wrong = np.kron(rng.random((SIZE[0] // 8, SIZE[1] // 8)) < SPOILED[method], np.ones((8, 8), bool))
        shifted = np.roll(label, 2, axis=1)
        label = np.where(shifted == IGNORE, 0, shifted)
        return np.where(wrong, rng.permutation(NUM_CLASSES).astype(np.uint8)[label], label)

    return lambda images, size: PredictedLabels(np.stack([spoiled(image) for image in images]))


def write_log(folder: Path, method: str, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = random_generator("log", method, seed)
    lines = []
    for iteration in range(10, 310, 10):
        entry = {"iteration": iteration, "loss": 2.9 * np.exp(-iteration / 120) + 0.4 + 0.1 * rng.random()}
        if iteration % 100 == 0:
            entry["validation_miou"] = 0.4 - 0.3 * np.exp(-iteration / 100) + 0.02 * rng.random()
        lines.append(json.dumps(entry))
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")


def write_generated(folder: Path, per_condition: int = 6) -> Path:
    """Source scenes in the layout of a generated data set: parquet with the images' bytes."""
    rows = []
    for condition in ("snowy", "night", "foggy"):
        for index in range(per_condition):
            rendering = render_source(0, index, SIZE)
            prompt = f"A city street scene with road, building, person, car, in {condition} weather."
            cells = {"image": _cell(rendering.image), "label": _cell(rendering.label), "prompt": prompt}
            scores = {"alignment": 0.4 + 0.05 * index, "alignment_control": 0.35 + 0.02 * index}
            rows.append({**cells, "class_id": 11 + index, "condition": condition, **scores})
    (folder / "data").mkdir(parents=True)
    for shard, start in enumerate(range(0, len(rows), 9)):
        table = pa.Table.from_pylist(rows[start : start + 9])
        pq.write_table(table, folder / "data" / f"train-{shard:05}-of-00002.parquet")
    return folder


def _cell(pixels: NDArray[np.uint8]) -> dict[str, bytes | None]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture(scope="session", autouse=True)
def _small_pictures() -> Iterator[None]:
    """Reports with fewer pixels: encoding those of a page takes longer than all that is tested about them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "PNG_DPI", 60)
        patch.setattr(gallery, "PICTURE_PX", 256)
        yield


def built_once(content: ReportContent, factory: pytest.TempPathFactory, name: str) -> Path:
    """The folder of a report, which the first of pytest's processes builds for all: it takes 10 s of CPU."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (root / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / name / "index.html").is_file():  # which is written last
            build_report(content, root / name)
    return root / name


@pytest.fixture(scope="session")
def content(tmp_path_factory: pytest.TempPathFactory) -> ReportContent:
    """Three methods, three seeds, five toy targets, a generated data set."""
    root = tmp_path_factory.mktemp("experiment")
    domains = {name: write_scenes(root / "world" / name, name) for name in TARGETS}
    everything = [scene for scenes in domains.values() for scene in scenes]
    models = []
    for seed in range(3):
        for method in SPOILED:
            training = root / "trainings" / f"{method} {seed}"
            model = TrainedModel(method, seed, root / "evaluations" / f"{method} {seed}", training)
            predict = spoiled_predictor(everything, method, seed)
            score(predict, domains, EvaluationConfig(keep_predictions=2), model.evaluation)
            write_log(training, method, seed)
            models.append(model)
    return ReportContent(
        name="toy",
        models=models,
        domains=domains,
        generated=write_generated(root / "generated"),
        seconds={"world": 9.4, "generated": 192.0, "segmenter": 401.5, "evaluation": 22.5},
        provenance={"git_commit": "0" * 40, "config": {"training": {"seeds": [0, 1, 2]}}},
    )


@pytest.fixture(scope="session")
def report(content: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on `content`."""
    return built_once(content, tmp_path_factory, "report")


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> ReportContent:
    """Ten methods, one with a long name; a domain with conditions, and one of which no image can be read.

    The domains have names of published ones, predictions a confidence, and a single method two seeds.
    """
    root = tmp_path_factory.mktemp("crowded")
    acdc = [scene for weather in ("fog", "night") for scene in write_scenes(root / "world" / weather, weather)]
    acdc = [replace(scene, condition=scene.id.partition("_")[0]) for scene in acdc]
    dark, bdd = (write_scenes(root / "world" / name, "night") for name in ("dark", "bdd"))
    for scene in bdd:
        assert scene.image is not None
        scene.image.write_bytes(b"no image")
    domains = {"acdc": acdc, "dark_zurich": dark, "bdd100k": bdd}
    names = ["none", "GAP", "UBE", "GAP + UBE", "GAP + UBE + HAS with the sigmoid schedule", "linear", *"ABCD"]
    models = []
    for index, name in enumerate([*names, "none"]):
        model = TrainedModel(name, index // len(names), root / "evaluations" / str(index))
        predict = confident(spoiled_predictor([*acdc, *dark], "generated" if index % 10 else "source only", index))
        score(predict, domains, EvaluationConfig(keep_predictions="all"), model.evaluation)
        models.append(model)
    return ReportContent("crowded", models, domains, None, {}, {})


def confident(predict: Predict) -> Predict:
    """The same predictions with a confidence that grows from left to right."""

    def predicted(images: NDArray[np.uint8], size: tuple[int, int]) -> PredictedLabels:
        labels = np.asarray(predict(images, size).labels)
        confidence = np.linspace(0.2, 1.0, labels.shape[-1], dtype=np.float32)
        return PredictedLabels(labels, np.tile(confidence, (*labels.shape[:2], 1)))

    return predicted


@pytest.fixture(scope="session")
def crowded_report(crowded: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on `crowded`."""
    return built_once(crowded, tmp_path_factory, "crowded_report")
