"""Sliding windows: every place is covered, none lies outside, and steps are as wide as was asked for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.windows import window_starts


@given(st.integers(1, 99), st.integers(1, 120), st.data())
def test_windows_cover_the_length_and_stay_inside(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    starts = window_starts(length, window, stride)
    covered = {at for start in starts for at in range(start, start + window)}
    assert set(range(length)) <= covered
    assert starts == sorted(set(starts)) and starts[0] == 0
    assert starts[-1] == max(0, length - window)
    steps = [right - left for left, right in pairwise(starts)]
    assert all(step == stride for step in steps[:-1]) and all(step <= stride for step in steps)


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(100, 64, 30, [0, 30, 36]), (64, 64, 64, [0]), (10, 64, 32, [0]), (128, 64, 64, [0, 64])],
)
def test_known_windows(length: int, window: int, stride: int, starts: list[int]) -> None:
    assert window_starts(length, window, stride) == starts


@pytest.mark.parametrize("stride", [0, -1, 65])
def test_a_stride_that_leaves_gaps_or_never_ends(stride: int) -> None:
    with pytest.raises(ValueError, match="leave gaps"):
        window_starts(100, 64, stride)
