"""Scores against torchmetrics, scipy's morphology and properties that must hold for any pair of maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from evaluation.metrics import Scores, class_iou, confusion_matrix, mean_iou
from pipeline.labels import IGNORE, NUM_CLASSES

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
label_maps = shapes.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 18, IGNORE])))


def random_maps(seed: int, classes: int = NUM_CLASSES, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A blocky label map with ignored pixels and a prediction that is right in about half of them."""
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, classes, (size // 8, size // 8)), np.ones((8, 8))).astype(np.uint8)
    prediction = np.where(rng.random(label.shape) < 0.5, label, rng.integers(0, classes, label.shape)).astype(np.uint8)
    label[rng.random(label.shape) < 0.1] = IGNORE
    return prediction, label


@pytest.mark.parametrize("classes", [3, NUM_CLASSES])
def test_scores_agree_with_torchmetrics(classes: int) -> None:
    scores = Scores(band=5)
    per_class = MulticlassJaccardIndex(NUM_CLASSES, average=None, ignore_index=IGNORE)
    accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro", ignore_index=IGNORE)
    for seed in range(3):
        prediction, label = random_maps(seed, classes)
        scores.add(prediction, label)
        pair = torch.from_numpy(prediction).long(), torch.from_numpy(label).long()
        per_class.update(*pair)
        accuracy.update(*pair)
    iou = class_iou(scores.confusion)
    assert np.isnan(iou[classes:]).all()  # torchmetrics says 0 where a class is absent in both
    np.testing.assert_allclose(iou[:classes], per_class.compute().numpy()[:classes], rtol=1e-6)
    np.testing.assert_allclose(mean_iou(iou), per_class.compute().numpy()[:classes].mean(), rtol=1e-6)
    np.testing.assert_allclose(scores.pixel_accuracy, accuracy.compute().item(), rtol=1e-6)


def test_a_class_only_in_predictions_has_iou_zero_and_one_in_neither_has_none() -> None:
    prediction, label = np.full((4, 4), 7, np.uint8), np.full((4, 4), 3, np.uint8)
    iou = class_iou(confusion_matrix(prediction, label))
    assert iou[3] == iou[7] == 0
    assert np.isnan(np.delete(iou, [3, 7])).all()
    assert mean_iou(iou) == 0


def test_nothing_labeled_has_no_score() -> None:
    scores = Scores(band=5)
    scores.add(np.zeros((4, 4), np.uint8), np.full((4, 4), IGNORE, np.uint8))
    shares = [scores.pixel_accuracy, scores.boundary_error, scores.interior_error]
    assert np.isnan([mean_iou(class_iou(scores.confusion)), *shares]).all()


def test_predictions_are_checked() -> None:
    label = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="label's own size"):
        confusion_matrix(np.zeros((4, 5), np.uint8), label)
    with pytest.raises(ValueError, match="holds 255"):
        confusion_matrix(np.full((4, 4), IGNORE, np.uint8), label)


@settings(deadline=None, max_examples=50)  # time says more about the machine than about the code
@given(label_maps, st.integers(1, 4))
def test_boundary_pixels_are_dilation_minus_erosion_of_every_class(label: np.ndarray, radius: int) -> None:
    square = np.ones((2 * radius + 1, 2 * radius + 1), bool)
    expected = np.zeros(label.shape, bool)
    for train_id in set(np.unique(label)) - {IGNORE}:
        mask = label == train_id
        dilated = ndimage.binary_dilation(mask, square)
        eroded = ndimage.binary_erosion(mask | (label == IGNORE), square, border_value=1)
        expected |= dilated & ~eroded & mask
    scores = Scores(band=radius)
    scores.add(np.full(label.shape, 9, np.uint8), label)  # wrong everywhere, so every boundary pixel is a wrong one
    assert scores.boundary_pixels == scores.boundary_wrong == expected.sum()


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_counts_add_up_whatever_the_maps(data: st.DataObject) -> None:
    label = data.draw(label_maps)
    prediction = data.draw(arrays(np.uint8, label.shape, elements=st.sampled_from([0, 1, 2, 18])))
    scores = Scores(band=2)
    scores.add(prediction, label)
    valid = label != IGNORE
    assert scores.pixels == valid.sum()
    assert scores.wrong == (prediction != label)[valid].sum()
    np.testing.assert_array_equal(scores.confusion.sum(axis=1), np.bincount(label[valid], minlength=NUM_CLASSES))
    np.testing.assert_array_equal(scores.confusion.sum(axis=0), np.bincount(prediction[valid], minlength=NUM_CLASSES))
    assert 0 <= scores.boundary_wrong <= min(scores.boundary_pixels, scores.wrong)
