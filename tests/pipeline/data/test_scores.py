"""Confusion and IoU against counts by hand. Agreement with torchmetrics and golden numbers: tests/evaluation."""

import numpy as np
import pytest
import torch

from pipeline.data.labels import IGNORE, NUM_CLASSES
from pipeline.data.scores import class_iou, confusion_matrix, mean_iou


def test_mean_iou_leaves_out_classes_that_do_not_occur() -> None:
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    assert np.isnan(mean_iou(class_iou(confusion)))
    confusion[0, 0], confusion[0, 1], confusion[1, 1] = 6, 2, 2
    iou = class_iou(confusion)
    assert iou[:2].tolist() == [6 / 8, 2 / 4] and np.isnan(iou[2:]).all()
    assert mean_iou(iou) == (6 / 8 + 2 / 4) / 2


@pytest.mark.parametrize("seed", range(3))
def test_the_confusion_matrix_counts_every_labeled_pixel_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.choice([*range(NUM_CLASSES), IGNORE], (17, 23)).astype(np.uint8)
    prediction = rng.integers(0, NUM_CLASSES, label.shape).astype(np.uint8)
    expected = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for true, said in zip(label.ravel(), prediction.ravel(), strict=True):
        if true != IGNORE:
            expected[true, said] += 1
    np.testing.assert_array_equal(confusion_matrix(torch.tensor(prediction), torch.tensor(label)), expected)
