"""Evaluation of plain `predict` functions, in this process."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from evaluation.counts import ImageCounts, save_image_counts
from evaluation.evaluate import evaluate, place_scores
from evaluation.inference import Predict, PredictedLabels, make_predict
from evaluation.schema import DomainScores, Evaluation, write_record
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene
from pipeline.data.labels import IGNORE, TRAIN_IDS
from pipeline.work.progress import Track, silent

CPU = Machine(device="cpu")


def score(
    predict: Predict,
    domains: Mapping[str, Sequence[Scene]],
    config: EvaluationConfig,
    folder: Path,
    *,
    progress: Track = silent,
) -> None:
    """`evaluate` with a `predict` that needs no loading."""
    evaluate(lambda device, batch_size: predict, domains, config, folder, machine=CPU, progress=progress)


def write_evaluation(folder: Path, domains: Mapping[str, ImageCounts], config: EvaluationConfig) -> None:
    """An evaluation's folder from counts that were made up: what `evaluate` writes, less the pictures."""
    results = {}
    for name, counts in domains.items():
        save_image_counts(counts, folder, name)
        scores = dict(place_scores(counts, config))
        results[name] = DomainScores(**scores, conditions={}, scale="1 × 2×2 px", predictions=(), skipped=())
    write_record(Evaluation(band=config.band, domains=results), folder / "evaluation.json")


def write_scenes(folder: Path, count: int, size: tuple[int, int] = (16, 24)) -> list[Scene]:
    """Scenes whose image holds its own label map in the red channel, so that a predictor can read the truth."""
    folder.mkdir(parents=True)
    scenes = read_scenes(folder, count)
    for index, scene in enumerate(scenes):
        label = np.full(size, 2, np.uint8)
        label[:, : size[1] // 2] = index % 3
        label[0] = IGNORE
        image = np.repeat(label[..., None], 3, axis=2)
        Image.fromarray(image).save(folder / f"{index}.png")
        Image.fromarray(label).save(scene.label)
    return scenes


def read_scenes(folder: Path, count: int) -> list[Scene]:
    """The scenes that are there already."""
    return [Scene(f"scene{k}", folder / f"{k}.png", folder / f"{k}_label.png", TRAIN_IDS) for k in range(count)]


def read_truth(images: NDArray[np.uint8], size: tuple[int, int]) -> PredictedLabels:
    """Knows the truth of such scenes."""
    return PredictedLabels(np.where(images[..., 0] == IGNORE, 0, images[..., 0]).astype(np.uint8))


def load_small(device: str, batch_size: int) -> Predict:
    """A small network of random weights whose sums are long enough to differ with the number of threads."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 64, 7, padding=3), torch.nn.GELU(), torch.nn.Conv2d(64, 19, 7, padding=3)
        )
    return make_predict(network, EvaluationConfig(), torch.device(device), batch_size)
