"""A look at held-out source scenes while training runs; the report's scores come from `evaluation`."""

from collections.abc import Sequence

import numpy as np

from pipeline.datasets import Scene
from pipeline.labels import NUM_CLASSES
from pipeline.seeding import generator
from training.data import Pool
from training.networks import Segmenter
from training.predict import predict_labels


def hold_out(scenes: Sequence[Scene], count: int) -> tuple[list[Scene], list[Scene]]:
    """Training scenes and `count` validation scenes, at most a fifth of all: one split for every method and seed."""
    chosen = set(generator("validation scenes").permutation(len(scenes))[: min(count, len(scenes) // 5)].tolist())
    training = [scene for index, scene in enumerate(scenes) if index not in chosen]
    return training, [scenes[index] for index in sorted(chosen)]


def mean_iou(segmenter: Segmenter, pool: Pool, scale: float) -> float:
    """mIoU in [0, 1] over the classes that occur in labels or predictions. Leaves the segmenter in training mode."""
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    segmenter.eval()
    for index in range(len(pool)):
        image, label = pool.read(index)
        pairs = label.astype(np.int64) * NUM_CLASSES + predict_labels(segmenter, image, scale)
        confusion += np.bincount(pairs[label < NUM_CLASSES], minlength=NUM_CLASSES**2).reshape(confusion.shape)
    segmenter.train()
    hits = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return float((hits[union > 0] / union[union > 0]).mean())
