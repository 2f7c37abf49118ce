"""Scores against the numbers of an independent float64 implementation (golden/flexseg.npz)."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.metrics import Scores
from pipeline.data.scores import class_iou, mean_iou


def test_golden_metrics(golden: Path) -> None:
    reference = np.load(golden / "flexseg.npz")
    scores = Scores(band=5)
    pairs = zip(reference["metrics.prediction"], reference["metrics.label"], strict=True)
    for prediction, label in pairs:
        scores.add(prediction.astype(np.uint8), label.astype(np.uint8))
    iou = class_iou(scores.confusion)
    np.testing.assert_array_equal(scores.confusion, reference["metrics.confusion"])
    np.testing.assert_allclose(iou, reference["metrics.iou"], atol=1e-12)
    assert 100 * mean_iou(iou) == pytest.approx(float(reference["metrics.miou_percent"]), abs=1e-9)
    assert scores.boundary_error == pytest.approx(float(reference["metrics.boundary_error"]), abs=1e-12)
    assert scores.interior_error == pytest.approx(float(reference["metrics.interior_error"]), abs=1e-12)
