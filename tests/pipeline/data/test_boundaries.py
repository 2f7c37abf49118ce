"""Bands against scipy's morphology, class by class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from pipeline.data.boundaries import boundary_band, boundary_granularity
from pipeline.data.labels import IGNORE

LABELS = arrays(
    np.int64,
    st.tuples(st.just(2), st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 1, 2, 18, IGNORE]),
    fill=st.sampled_from([0, 3, IGNORE]),
)


def _band_by_class(label: np.ndarray, size: int) -> np.ndarray:
    """Of each class's own pixels those that an erosion removes; ignored and outside pixels erode nothing."""
    band = np.zeros(label.shape, bool)
    for train_id in range(19):
        own = label == train_id
        eroded = ndimage.binary_erosion(own | (label == IGNORE), np.ones((size, size)), border_value=1)
        band |= own & ~eroded
    return band


@settings(max_examples=60, deadline=None)
@given(labels=LABELS)
def test_granularity_is_the_thinnest_band_that_holds_the_pixel(labels: np.ndarray) -> None:
    granularity = boundary_granularity(torch.from_numpy(labels), (3, 5, 7)).numpy()
    for label, found in zip(labels, granularity, strict=True):
        wanted = np.full(label.shape, -1)
        for index in (2, 1, 0):
            wanted[_band_by_class(label, (3, 5, 7)[index])] = index
        np.testing.assert_array_equal(found, wanted)


@settings(max_examples=30, deadline=None)
@given(labels=LABELS, radius=st.integers(1, 6))
def test_band_is_a_square_window_of_the_radius(labels: np.ndarray, radius: int) -> None:
    found = boundary_band(torch.from_numpy(labels), radius).numpy()
    for label, band in zip(labels, found, strict=True):
        np.testing.assert_array_equal(band, _band_by_class(label, 2 * radius + 1))


def test_uint8_labels_give_the_same_band() -> None:
    labels = torch.randint(0, 19, (1, 20, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(boundary_band(labels, 2), boundary_band(labels.to(torch.uint8), 2))


@pytest.mark.parametrize("sizes", [(3, 4), (5, 3), (3, 3), (1, 3)])
def test_wrong_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="odd"):
        boundary_granularity(torch.zeros(1, 4, 4, dtype=torch.int64), sizes)
