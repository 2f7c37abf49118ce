"""Scores of predictions against label maps: confusion, IoU, accuracy, and errors on boundaries against interiors.

A class that appears neither in the labels nor in the predictions has no IoU: it is NaN here and null in JSON, and no
mean ever turns it into a number.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.boundaries import boundary_band
from pipeline.labels import NUM_CLASSES

LabelMap = NDArray[np.uint8]
Confusion = NDArray[np.int64]


def confusion_matrix(prediction: LabelMap, label: LabelMap) -> Confusion:
    """Pixels per (label class, predicted class): two (H,W) uint8 maps -> (19,19) int64; ignored pixels count nowhere.

    Raises ValueError where the sizes differ or a prediction is no train id.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction is {prediction.shape}, its label {label.shape}: predict at the label's own size")
    # Label and prediction as one 16-bit code: counting all of them and cutting the table is faster than masking pixels.
    code = (label.astype(np.uint16) << 8) | prediction
    counts = np.bincount(code.ravel(), minlength=1 << 16).reshape(256, 256).astype(np.int64, copy=False)
    if counts[:, NUM_CLASSES:].any():
        raise ValueError(f"prediction holds {int(prediction.max())}: wanted train ids from 0 to {NUM_CLASSES - 1}")
    return counts[:NUM_CLASSES, :NUM_CLASSES]


def class_iou(confusion: Confusion) -> NDArray[np.float64]:
    """(19,19) confusion -> (19,) intersection over union; NaN for a class that is in neither labels nor predictions."""
    intersection = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    return np.divide(intersection, union, out=np.full(len(confusion), np.nan), where=union > 0)


def mean_iou(iou: NDArray[np.float64]) -> float:
    """Mean over the classes that have an IoU; NaN if none has."""
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else float("nan")


def share(part: int, whole: int) -> float:
    """part / whole; NaN for a share of nothing."""
    return part / whole if whole else float("nan")


@dataclass
class Scores:
    """Running counts over images; every score is taken from the summed counts, not averaged over images."""

    band: int
    images: int = 0
    confusion: Confusion = field(default_factory=lambda: np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64))
    boundary_pixels: int = 0
    boundary_wrong: int = 0

    def add(self, prediction: LabelMap, label: LabelMap) -> NDArray[np.bool_]:
        """Counts one image, (H,W) uint8 each. Returns the (H,W) boundary band that it was counted with."""
        self.confusion += confusion_matrix(prediction, label)
        on_boundary = boundary_band(torch.tensor(label)[None], self.band)[0].numpy()
        self.images += 1
        self.boundary_pixels += int(np.count_nonzero(on_boundary))
        self.boundary_wrong += int(np.count_nonzero(on_boundary & (prediction != label)))
        return on_boundary

    @property
    def pixels(self) -> int:
        """Labeled pixels."""
        return int(self.confusion.sum())

    @property
    def wrong(self) -> int:
        """Labeled pixels that were predicted as another class."""
        return self.pixels - int(np.trace(self.confusion))

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labeled pixels that are right."""
        return share(self.pixels - self.wrong, self.pixels)

    @property
    def boundary_error(self) -> float:
        """Share of the boundary pixels that are wrong (FLEX-Seg, figure 1)."""
        return share(self.boundary_wrong, self.boundary_pixels)

    @property
    def interior_error(self) -> float:
        """Share of the labeled pixels off the boundaries that are wrong (FLEX-Seg, figure 1)."""
        return share(self.wrong - self.boundary_wrong, self.pixels - self.boundary_pixels)
