"""A look at held-out source scenes while training runs; the report's scores come from `evaluation`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image

from pipeline.data.datasets import Scene
from pipeline.data.labels import NUM_CLASSES
from pipeline.data.pictures import Picture, colorize, fit, side_by_side
from pipeline.data.scores import class_iou, confusion_matrix, mean_iou
from pipeline.seeding import random_generator
from training.networks import Segmenter
from training.pools import ImagePool
from training.predict import predict_labels
from training.ranks import rank, summed, world_size

PREVIEWS = 4
PREVIEW_PX = 384
"""Longest side of each picture in a preview."""


def hold_out(scenes: Sequence[Scene], count: int) -> tuple[list[Scene], list[Scene]]:
    """Training scenes and `count` validation scenes, at most a fifth of all: one split for every method and seed."""
    chosen = set(
        random_generator("validation scenes").permutation(len(scenes))[: min(count, len(scenes) // 5)].tolist()
    )
    training = [scene for index, scene in enumerate(scenes) if index not in chosen]
    return training, [scenes[index] for index in sorted(chosen)]


def validate(segmenter: Segmenter, pool: ImagePool, scale: float, preview: Path) -> float | None:
    """mIoU in [0, 1] over the classes that occur in labels or predictions, None where no pixel is labeled. Leaves the
    segmenter in training mode.

    The pool's first scenes go to the picture `preview`, a row each: image, label, prediction. Ranks share the work.
    """
    device = next(segmenter.parameters()).device
    confusion = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64, device=device)
    shown: list[tuple[int, Picture]] = []
    segmenter.eval()
    for index in range(rank(), len(pool), world_size()):
        image, label = pool.read(index)
        prediction = predict_labels(segmenter, image, scale)
        counted = confusion_matrix(torch.tensor(prediction), torch.tensor(label))
        confusion += torch.tensor(counted, device=device)
        if index < PREVIEWS:
            shown.append((index, preview_row(image, label, prediction)))
    segmenter.train()
    rows = [row for _, row in sorted(gather_object(shown), key=lambda entry: entry[0])]
    if rank() == 0:
        preview.parent.mkdir(exist_ok=True)
        Image.fromarray(_stacked(rows)).save(preview)
    score = mean_iou(class_iou(summed(confusion).cpu().numpy()))
    return score if math.isfinite(score) else None


def preview_row(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> Picture:
    """Image (H,W,3), label and prediction (H,W) side by side; ignored pixels are black in both label maps."""
    maps = (colorize(label), colorize(np.where(label < NUM_CLASSES, prediction, label)))
    fitted = [fit(picture, PREVIEW_PX, Image.Resampling.NEAREST) for picture in maps]
    return side_by_side([fit(image, PREVIEW_PX), *fitted])


def draw_learning_curve(log: Path, target: Path) -> None:
    """Loss and validation mIoU over the iterations of a log.jsonl, as a picture."""
    from matplotlib.figure import Figure  # seconds to import

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    left = figure.subplots()
    left.plot([line["iteration"] for line in lines], [line["loss"] for line in lines], color="tab:blue", label="loss")
    left.set_xlabel("iteration")
    left.set_ylabel("training loss", color="tab:blue")
    left.set_ylim(bottom=0)
    validated = [line for line in lines if line.get("validation_miou") is not None]
    if validated:
        right = left.twinx()
        scores = [100 * line["validation_miou"] for line in validated]
        right.plot([line["iteration"] for line in validated], scores, color="tab:orange", marker="o")
        right.set_ylabel("mIoU of held-out scenes, %", color="tab:orange")
        right.set_ylim(bottom=0)
    figure.savefig(target, dpi=120)


def _stacked(rows: Sequence[Picture], gap_px: int = 4) -> Picture:
    """Rows below each other on white, as wide as the widest."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, gap_px), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)[:-gap_px]
