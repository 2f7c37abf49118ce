"""Boundary bands and UBE's weights against the same in NumPy and scipy.ndimage, on 1024x1024 px."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks.record import Row, record
from pipeline.data.boundaries import boundary_granularity
from pipeline.data.labels import IGNORE, NUM_CLASSES
from pipeline.seeding import random_generator
from pipeline.toytown import render_source
from training.losses import uncertainty_weights

SIDE, SIZES, ALPHA, EPS = 1024, (3, 5, 7), 3.0, 1e-6
GTA = Path(__file__).parents[2] / "shared" / "data" / "gta_labels"
Bands = Callable[[NDArray[np.uint8]], NDArray[np.int64]]


def measure_bands(*, repetitions: int) -> None:
    """Times every way on one map, checks that all give the same, and records it."""
    label, what = _label()
    logits = random_generator("logits").normal(0, 2, (NUM_CLASSES, SIDE, SIDE)).astype(np.float32)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=0))
    ways: dict[str, Bands] = {
        "flexseg": _ours,
        "scipy: each class dilated minus eroded": _by_class,
        "scipy: classes that occur, eroded only": _by_erosion,
        "scipy: maximum minus minimum filter": _by_filters,
    }
    truth = _ours(label)
    wanted = _our_weights(log_probabilities, label, truth >= 0)
    np.testing.assert_allclose(_numpy_weights(log_probabilities, label, truth >= 0), wanted, rtol=1e-4, atol=1e-5)
    ours, numpys = (
        _seconds(w, log_probabilities, label, truth >= 0, repetitions=repetitions)
        for w in (_our_weights, _numpy_weights)
    )
    rows: list[Row] = []
    for name, bands in ways.items():
        np.testing.assert_array_equal(bands(label), truth)
        seconds, weights = _seconds(bands, label, repetitions=repetitions), ours if name == "flexseg" else numpys
        whole = seconds + weights
        first = rows[0]["bands + weights, ms"] if rows else 1000 * whole
        assert isinstance(first, float)
        rows.append(
            {
                "bands by": name,
                "bands, ms": 1000 * seconds,
                "weights, ms": 1000 * weights,
                "bands + weights, ms": 1000 * whole,
                "times flexseg": 1000 * whole / first,
            }
        )
    title = f"Three bands and UBE's weights of {what}, {SIDE}x{SIDE} px, 19 classes (aim: 20 times the second row)"
    record("training_bands", title, rows, ("numpy", "scipy"))


def _label() -> tuple[NDArray[np.uint8], str]:
    """A real label map of GTA where there is one, else toy town enlarged."""
    files = sorted(GTA.rglob("*.png"))
    if files:
        return np.array(Image.open(files[0]))[:SIDE, :SIDE], f"a GTA label map ({files[0].name})"
    rendering = render_source(0, 0, (96, 192))
    return np.kron(rendering.label, np.ones((11, 6), np.uint8))[:SIDE, :SIDE], "an enlarged toy town label map"


def _seconds(work: Callable[..., Any], *arguments: Any, repetitions: int) -> float:
    times = []
    for _ in range(repetitions if work is not _ours and work is not _our_weights else 5 * repetitions):
        start = time.perf_counter()
        work(*arguments)
        times.append(time.perf_counter() - start)
    return median(times)


def _ours(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    return boundary_granularity(torch.from_numpy(label)[None], SIZES)[0].numpy()


def _our_weights(
    log_probabilities: NDArray[np.float32], label: NDArray[np.uint8], band: NDArray[np.bool_]
) -> NDArray[np.float32]:
    logs, labels, bands = (torch.from_numpy(array)[None] for array in (log_probabilities, label, band))
    return uncertainty_weights(logs, labels, bands, ALPHA, EPS)[0].numpy()


def _thinnest(masks: list[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Index of the first mask that holds the pixel, -1 for none."""
    granularity = np.full((SIDE, SIDE), -1)
    for index in reversed(range(len(masks))):
        granularity[masks[index]] = index
    return granularity


def _by_class(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The paper's equation word by word; ignored pixels erode nothing and belong to no band."""
    masks = [np.zeros((SIDE, SIDE), bool) for _ in SIZES]
    ignored = label == IGNORE
    for mask, size in zip(masks, SIZES, strict=True):
        window = np.ones((size, size), bool)
        for train_id in range(NUM_CLASSES):
            own = label == train_id
            dilated = ndimage.binary_dilation(own, window)
            eroded = ndimage.binary_erosion(own | ignored, window, border_value=1)
            mask |= dilated & ~eroded & own  # a pixel takes its own label as class
    return _thinnest(masks)


def _by_erosion(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Shorter: a pixel is always inside its own class's dilation, and absent classes have no band."""
    masks = [np.zeros((SIDE, SIDE), bool) for _ in SIZES]
    ignored = label == IGNORE
    for mask, size in zip(masks, SIZES, strict=True):
        for train_id in np.unique(label[~ignored]):
            own = label == train_id
            mask |= own & ~ndimage.binary_erosion(own | ignored, np.ones((size, size), bool), border_value=1)
    return _thinnest(masks)


def _by_filters(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Our own formulation by scipy's running maximum and minimum."""
    ignored = label == IGNORE
    high = np.where(ignored, 0, label)
    masks = [
        (ndimage.maximum_filter(high, size, mode="nearest") != ndimage.minimum_filter(label, size, mode="nearest"))
        & ~ignored
        for size in SIZES
    ]
    return _thinnest(masks)


def _numpy_weights(
    log_probabilities: NDArray[np.float32], label: NDArray[np.uint8], band: NDArray[np.bool_]
) -> NDArray[np.float32]:
    entropy = -(np.exp(log_probabilities) * log_probabilities).sum(axis=0)
    mean, deviation = entropy[band].mean(), entropy[band].std()
    weights = np.ones_like(entropy)
    weights[band] += ALPHA / (1 + np.exp(-(entropy[band] - mean) / (deviation + EPS)))
    weights[label == IGNORE] = 0
    return weights
