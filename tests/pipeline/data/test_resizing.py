"""Both filters, against their definitions written as plain loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.data.resizing import Filter, resized_image, resized_label
from pipeline.requests import Box

SIZES = [(13, 20), (20, 31), (26, 40), (9, 40)]


def pair(height: int = 26, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8), rng.integers(0, 19, (height, width), np.uint8)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each px of the result from the four px of `image` around its center; those beyond the border are repeated."""
    made = np.zeros((*size, 3))
    for row in range(size[0]):
        for column in range(size[1]):
            y = min(max((row + 0.5) * image.shape[0] / size[0] - 0.5, 0), image.shape[0] - 1)
            x = min(max((column + 0.5) * image.shape[1] / size[1] - 0.5, 0), image.shape[1] - 1)
            for top in (math.floor(y), math.floor(y) + 1):
                for left in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(y - top)) * (1 - abs(x - left))
                    if weight > 0:
                        made[row, column] += weight * image[top, left]
    return made


@pytest.mark.parametrize("size", SIZES)
def test_the_released_filter_looks_at_four_px(size: tuple[int, int]) -> None:
    image, label = pair()
    small, labels = resized_image(image, size, "released"), resized_label(label, size, "released")
    assert small.shape == (*size, 3) and small.dtype == labels.dtype == np.uint8
    assert np.abs(small - bilinear(image, size)).max() < 1  # OpenCV counts weights in 2048ths
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = row * 26 / size[0], column * 40 / size[1]
            # Where that is a whole number, OpenCV's own rounding may fall on either side of it.
            found = {label[int(y - e), int(x - f)] for e in (0, 1e-9) for f in (0, 1e-9)}
            assert labels[row, column] in found


@pytest.mark.parametrize("size", SIZES)
def test_the_other_one_looks_at_all_px(size: tuple[int, int]) -> None:
    image, label = pair()
    small, labels = resized_image(image, size), resized_label(label, size)
    pixels = torch.from_numpy(image).movedim(2, 0)[None].float()
    expected = interpolate(pixels, size, mode="bilinear", antialias=True)[0].movedim(0, 2).numpy()
    assert np.abs(small - expected).max() < 1.1  # Pillow rounds twice
    for row in range(size[0]):
        for column in range(size[1]):
            assert labels[row, column] == label[int((row + 0.5) * 26 / size[0]), int((column + 0.5) * 40 / size[1])]


@pytest.mark.parametrize("how", ["antialiased", "released"])
@pytest.mark.parametrize("size", [None, (260, 400), *SIZES, (320, 501), (177, 300)])
def test_a_box_is_cut_from_the_image_at_that_size(size: tuple[int, int] | None, how: Filter) -> None:
    """Released to the bit, antialiased to one step of 255, which rounding may take; at each border as within."""
    image, _ = pair(260, 400)
    whole = resized_image(image, size, how)
    height, width = whole.shape[:2]
    for top, left in ((0, 0), (height - 5, width - 11), (height // 3, width // 7)):
        part = resized_image(image, size, how, Box(top, left, 5, 11)).astype(int)
        steps = np.abs(part - whole[top : top + 5, left : left + 11])
        assert steps.max() <= (how == "antialiased")


def test_without_a_size_nothing_is_touched() -> None:
    image, label = pair()
    assert np.shares_memory(resized_image(image, None, "released"), image)
    np.testing.assert_array_equal(resized_image(image, None), image)
    assert resized_label(label, None, "released") is label
