"""The alignment score: high where the image follows the mask, low where the mask is moved away."""

import numpy as np

from generation.alignment import alignment, label_edges
from pipeline.labels import CLASSES


def blocks() -> np.ndarray:
    label = np.zeros((64, 128), np.uint8)
    label[:30] = 10
    label[20:50, 30:60] = 13
    label[10:40, 80:100] = 2
    return label


def paint(label: np.ndarray) -> np.ndarray:
    return np.array([c.color for c in CLASSES], np.uint8)[label]


def test_painted_mask_follows_itself_and_a_moved_mask_does_not() -> None:
    label = blocks()
    image = paint(label)
    assert alignment(image, label, 1) > 0.95
    assert alignment(image, np.roll(label, (9, 13), (0, 1)), 1) < 0.4


def test_flat_image_follows_nothing_and_flat_mask_has_nothing_to_follow() -> None:
    label = blocks()
    assert alignment(np.full((64, 128, 3), 90, np.uint8), label, 1) == 0.0
    assert alignment(paint(label), np.zeros_like(label), 1) == 1.0


def test_sizes_off_the_detectors_grid_are_scored_too() -> None:
    label = np.pad(blocks(), ((0, 21), (0, 9)), mode="edge")
    assert alignment(paint(label), label, 2) > 0.9


def test_ignored_pixels_bound_nothing() -> None:
    label = np.array([[0, 255, 1, 1, 2]], np.uint8)
    np.testing.assert_array_equal(label_edges(label), [[False, False, False, True, False]])
