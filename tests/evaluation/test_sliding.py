"""Sliding windows: they cover the image, are averaged where they overlap, and give some rows as they give all."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from evaluation.sliding import SlidingLogits
from pipeline.data.labels import NUM_CLASSES
from tests.made_networks import bright, local, photos


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(2, 24), st.integers(2, 24)),
    st.data(),
)
def test_windows_cover_every_pixel_and_change_nothing_for_a_network_that_sees_one_pixel(
    size: tuple[int, int], window: tuple[int, int], data: st.DataObject
) -> None:
    stride = tuple(data.draw(st.integers(1, side)) for side in window)
    images = torch.tensor(photos(2, *size)).movedim(3, 1).float()
    logits = SlidingLogits(
        bright,
        images,
        window,
        (stride[0], stride[1]),
        batch_size=data.draw(st.integers(1, 9)),
        mirrored=data.draw(st.booleans()),
    )
    ends = sorted({*data.draw(st.lists(st.integers(1, size[0]))), size[0]})
    found = torch.cat([logits.rows(first, last) for first, last in zip([0, *ends], ends, strict=False)], dim=2)
    torch.testing.assert_close(found, bright(images))


def test_overlapping_windows_are_averaged_and_the_last_ends_at_the_border() -> None:
    """12 columns, windows of 8 in steps of 6: [0, 8) and [4, 12). Logits say in which window a pixel lies."""
    first = iter([0.0, 1.0])

    def network(windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full((1, NUM_CLASSES, 1, 1), next(first)) for _ in windows])

    found = SlidingLogits(network, torch.zeros(1, 3, 8, 12), (8, 8), (6, 6), batch_size=1).rows(0, 8)
    assert found[0, 0, 0].tolist() == [0] * 4 + [0.5] * 4 + [1] * 4


def test_rows_of_sliding_windows_are_those_of_all_windows_at_once() -> None:
    """Against the sum over all windows in one piece, of a network that sees a pixel's surroundings; mirrored too."""
    images = torch.tensor(photos(2, 53, 37)).movedim(3, 1).float()
    for mirrored in (False, True):
        seen = images.flip(3) if mirrored else images
        total, count = torch.zeros(2, NUM_CLASSES, 53, 37), torch.zeros(53, 37)
        for top in (0, 9, 18, 27, 36, 37):
            for left in (0, 12, 17):
                part = interpolate(local(seen[:, :, top : top + 16, left : left + 20]), (16, 20), mode="bilinear")
                total[:, :, top : top + 16, left : left + 20] += part
                count[top : top + 16, left : left + 20] += 1
        expected = (total / count).flip(3) if mirrored else total / count
        logits = SlidingLogits(local, images, (16, 20), (9, 12), batch_size=3, mirrored=mirrored)
        for first, last in ((0, 1), (1, 20), (15, 21), (21, 50), (50, 53)):
            torch.testing.assert_close(logits.rows(first, last), expected[:, :, first:last], atol=1e-4, rtol=1e-5)
