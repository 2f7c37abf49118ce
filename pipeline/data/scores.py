"""How well predicted label maps agree with true ones: the confusion matrix and the scores that are taken from it.

A class that is neither in the labels nor in the predictions has no IoU: it is NaN here and null in JSON, and no mean
ever turns it into a number.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.data.labels import NUM_CLASSES

if TYPE_CHECKING:
    import torch  # takes seconds to import

Confusion = NDArray[np.int64]
"""(19,19) px per label class (rows) and predicted class (columns)."""


def confusion_matrix(prediction: "torch.Tensor", label: "torch.Tensor") -> Confusion:
    """Pixels per (label class, predicted class) of two (H,W) uint8 maps on one device; ignored pixels count nowhere.

    ValueError where the sizes differ or a prediction is no train id.
    """
    import torch

    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction is {tuple(prediction.shape)}, its label {tuple(label.shape)}: predict at the label's own size"
        )
    if (highest := int(prediction.max())) >= NUM_CLASSES:
        raise ValueError(f"prediction holds {highest}: wanted train ids from 0 to {NUM_CLASSES - 1}")
    # 8 bits of label and 5 of prediction in one 16-bit code: counting every pixel once, without a mask and without
    # the widening to 64 bits that NumPy's bincount does, is what makes this fast.
    code = label.to(torch.int16).mul_(32).add_(prediction).flatten()
    counts = torch.bincount(code, minlength=256 * 32).view(256, 32)
    return counts[:NUM_CLASSES, :NUM_CLASSES].cpu().numpy()


def class_iou(confusion: Confusion) -> NDArray[np.float64]:
    """(19,) intersection over union; NaN for a class that is in neither labels nor predictions."""
    intersection = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    return np.divide(intersection, union, out=np.full(len(confusion), np.nan), where=union > 0)


def mean_iou(iou: NDArray[np.float64]) -> float:
    """Mean over the classes that have an IoU; NaN if none has."""
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else float("nan")
