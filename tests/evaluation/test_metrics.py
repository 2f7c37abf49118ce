"""Scores against torchmetrics, scipy's morphology and properties that must hold for any pair of maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassJaccardIndex

from evaluation.metrics import Scores, count
from pipeline.data.labels import IGNORE, NUM_CLASSES
from pipeline.data.scores import class_iou, confusion_matrix, mean_iou

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
    iou = class_iou(confusion_matrix(torch.tensor(prediction), torch.tensor(label)))
    assert iou[3] == iou[7] == 0
    assert np.isnan(np.delete(iou, [3, 7])).all()
    assert mean_iou(iou) == 0


def test_nothing_labeled_has_no_score() -> None:
    scores = Scores(band=5)
    scores.add(np.zeros((4, 4), np.uint8), np.full((4, 4), IGNORE, np.uint8))
    shares = [scores.pixel_accuracy, scores.boundary_error, scores.interior_error]
    assert np.isnan([mean_iou(class_iou(scores.confusion)), *shares]).all()


def test_predictions_are_checked() -> None:
    label = torch.zeros(4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="label's own size"):
        confusion_matrix(torch.zeros(4, 5, dtype=torch.uint8), label)
    for wrong in (19, 40, IGNORE):
        with pytest.raises(ValueError, match=f"holds {wrong}"):
            confusion_matrix(torch.full((4, 4), wrong, dtype=torch.uint8), label)


@settings(deadline=None, max_examples=20)  # time says more about the machine than about the code
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


@settings(deadline=None, max_examples=20)
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


def evaluate_style_mean_iou(prediction: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean IoU as the `evaluate` library's metric defines it: areas by histograms of the pixels that are not ignored,
    a class in neither map is NaN, the mean leaves NaN out."""
    kept = label != IGNORE
    prediction, label = prediction[kept], label[kept]
    bins = np.arange(NUM_CLASSES + 1)
    both, said, true = (np.histogram(x, bins)[0] for x in (prediction[prediction == label], prediction, label))
    union = said + true - both
    iou = np.full(NUM_CLASSES, np.nan)
    iou[union > 0] = both[union > 0] / union[union > 0]
    return iou, float(np.nanmean(iou)) if kept.any() else float("nan")


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_mean_iou_agrees_with_histograms_and_torchmetrics_whatever_the_maps(data: st.DataObject) -> None:
    label = data.draw(label_maps)
    prediction = data.draw(arrays(np.uint8, label.shape, elements=st.integers(0, NUM_CLASSES - 1)))
    pair = torch.tensor(prediction), torch.tensor(label)
    iou = class_iou(confusion_matrix(*pair))
    expected, mean = evaluate_style_mean_iou(prediction, label)
    np.testing.assert_array_equal(iou, expected)
    np.testing.assert_allclose(mean_iou(iou), mean, atol=1e-12)  # NaN equals NaN
    theirs = MulticlassJaccardIndex(NUM_CLASSES, average=None, ignore_index=IGNORE)(*(x.long() for x in pair)).numpy()
    np.testing.assert_allclose(iou[~np.isnan(iou)], theirs[~np.isnan(iou)], rtol=1e-6)


@settings(deadline=None, max_examples=20)
@given(label_maps, st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True), st.integers(0, 9))
def test_the_curve_is_every_band_counted_alone(label: np.ndarray, widths: list[int], seed: int) -> None:
    prediction = np.random.default_rng(seed).choice(np.array([0, 1, 2], np.uint8), label.shape)
    curve = Scores(widths[0], widths)
    curve.add(prediction, label)
    for k, width in enumerate(curve.widths):
        alone = Scores(width)
        on_boundary = alone.add(prediction, label)
        assert alone.boundary_pixels == on_boundary.sum()
        found = curve.boundary_errors()[k], curve.interior_errors()[k], curve.boundary_shares()[k]
        pixels = (label != IGNORE).sum()
        share = on_boundary.sum() / pixels if pixels else np.nan
        np.testing.assert_equal(found, (alone.boundary_error, alone.interior_error, share))


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_calibration_error_agrees_with_torchmetrics(sharpness: float) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, NUM_CLASSES, 40, 50, generator=random) * sharpness
    labels = torch.randint(0, NUM_CLASSES, (2, 40, 50), generator=random)
    labels[torch.rand(labels.shape, generator=random) < 0.4] = 3
    logits[:, 3] += 1
    labels[:, :5] = IGNORE
    probabilities = logits.softmax(dim=1)
    metric = MulticlassCalibrationError(NUM_CLASSES, n_bins=15, norm="l1", ignore_index=IGNORE)
    confidence, prediction = probabilities.max(dim=1)
    counts = [count(prediction[k].to(torch.uint8), labels[k].to(torch.uint8), [5], confidence[k]) for k in range(2)]
    scores = Scores(5, (), counts[0].plus(counts[1]), 2)
    assert scores.counts.bin_pixels.sum() == scores.pixels == 2 * 35 * 50
    assert scores.calibration_error == pytest.approx(float(metric(probabilities, labels)), abs=1e-4)


def test_confidences_at_the_ends_and_that_are_no_numbers() -> None:
    label = torch.tensor([[0, 0, IGNORE, 1]], dtype=torch.uint8)
    prediction = torch.zeros_like(label)
    counts = count(prediction, label, [5], torch.tensor([[1.0, 0.0, 0.5, 1.0]]))
    assert counts.bin_pixels.tolist() == [1] + [0] * 13 + [2] and counts.bin_right[[0, 14]].tolist() == [1, 1]
    assert counts.bin_confidence[[0, 14]] == pytest.approx([0, 2], abs=2e-4)
    assert np.isnan(Scores(5).calibration_error)
    with pytest.raises(ValueError, match="not a number"):
        count(prediction, label, [5], torch.tensor([[1.0, torch.nan, 0.5, 1.0]]))


def test_what_is_counted_does_not_depend_on_the_order() -> None:
    prediction, label = (torch.tensor(x) for x in random_maps(0))
    confidence = torch.tensor(np.random.default_rng(0).random(label.shape), dtype=torch.float32)
    whole = count(prediction, label, [1, 5], confidence)
    mirrored = count(prediction.flip(1), label.flip(1), [1, 5], confidence.flip(1))
    for one, other in zip(whole, mirrored, strict=True):
        np.testing.assert_array_equal(one, other)
