"""Windows, what they cover, and what is kept, against brute force and scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.components import large_components, to_cells
from generation.windows import Window, grid, needed, sparse_cover
from pipeline.errors import UserError

SIDES = st.integers(1, 40)


def covered(windows: list[Window], canvas: tuple[int, int]) -> np.ndarray:
    count = np.zeros(canvas, int)
    for _, top, left, height, width in windows:
        assert 0 <= top <= canvas[0] - height
        assert 0 <= left <= canvas[1] - width
        count[top : top + height, left : left + width] += 1
    return count


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.data())
def test_windows_cover_every_cell_and_sparse_ones_every_free_cell(
    height: int, width: int, tall: int, wide: int, data: st.DataObject
) -> None:
    canvas, window = (height, width), (min(tall, height), min(wide, width))
    stride = data.draw(st.integers(1, min(window)))
    windows = grid(canvas, (tall, wide), stride)
    assert covered(windows, canvas).min() >= 1
    assert len(set(windows)) == len(windows)
    assert {w[3:] for w in windows} == {window}
    density, seed = data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0])), data.draw(st.integers(0, 99))
    free = np.random.default_rng(seed).random(canvas) < density
    left = needed(windows, free)
    chosen = sparse_cover(windows, free)
    for kind in (left, chosen):
        assert set(kind) <= set(windows)
        assert (covered(kind, canvas)[free] >= 1).all()
    # leaving the others out changes nothing for the free cells, and no chosen window is idle
    np.testing.assert_array_equal(covered(left, canvas)[free], covered(windows, canvas)[free])
    assert len(chosen) <= len(left)


def test_the_released_generator_has_81_windows() -> None:
    windows = grid((128, 128), (64, 64), 8)
    assert len(windows) == 81
    assert (windows[0][1:3], windows[-1][1:3]) == ((0, 0), (64, 64))
    assert len(sparse_cover(windows, np.ones((128, 128), bool))) == 4
    assert [w.left for w in grid((64, 100), (64, 64), 30)] == [0, 30, 36]  # the last one is flush with the edge


def test_a_stride_that_leaves_gaps() -> None:
    with pytest.raises(UserError, match="stride is 65 cells, wanted at most the window's 64"):
        grid((128, 128), (64, 64), 65)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(0, 60))
def test_large_components_equal_flood_fill(seed: int, pixels: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.choice(np.array([0, 7, 18, 255], np.uint8), (6, 8)).repeat(3, 0).repeat(2, 1)
    expected = np.zeros(label.shape, bool)
    todo = {(int(y), int(x)) for y, x in np.ndindex(label.shape)}
    while todo:
        start = todo.pop()
        component, edge = [start], [start]
        while edge:
            y, x = edge.pop()
            around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            new = [p for p in around if p in todo and label[p] == label[start]]
            todo.difference_update(new)
            component += new
            edge += new
        if len(component) > pixels and label[start] != 255:
            expected[tuple(np.transpose(component))] = True
    np.testing.assert_array_equal(large_components(label, pixels), expected)


def test_an_ignored_region_is_never_kept() -> None:
    label = np.full((20, 20), 255, np.uint8)
    label[:, 10:] = 3
    label[2, 12] = 5
    large = large_components(label, 50)
    np.testing.assert_array_equal(large, label == 3)


def test_a_cell_takes_its_first_px() -> None:
    mask = np.random.default_rng(0).random((12, 24)) < 0.5
    np.testing.assert_array_equal(to_cells(mask, (6, 6)), mask[::2, ::4])
    np.testing.assert_array_equal(to_cells(mask, (24, 48)), mask.repeat(2, 0).repeat(2, 1))
