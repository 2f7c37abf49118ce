"""Several passes over an image (mirrored, rescaled): their probabilities are averaged in strips, in bounded memory."""

from collections.abc import Sequence

import pytest
import torch
from torch.nn.functional import interpolate

from evaluation import inference


@pytest.mark.parametrize("sizes", [[(9, 14), (9, 14)], [(9, 14), (13, 21)], [(70, 14), (9, 14)]])
def test_passes_are_averaged_in_strips_as_in_one_piece(
    sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of the softmax of torch's own enlarged logits, whatever the strips."""
    monkeypatch.setattr(inference, "STRIP_VALUES", 19 * 37 * 5)  # strips of 2 rows
    random = torch.Generator().manual_seed(0)
    passes = [3 * torch.randn((2, 19, *size), generator=random) for size in sizes]
    found = inference.read(iter(passes), (53, 37), single=False)
    enlarged = [
        interpolate(logits, (53, 37), mode="bilinear", align_corners=False, antialias=logits.shape[2] > 53)
        for logits in passes
    ]
    mean = torch.stack([logits.softmax(dim=1) for logits in enlarged]).mean(dim=0)
    torch.testing.assert_close(torch.as_tensor(found.confidence), mean.amax(dim=1), atol=2e-6, rtol=0)
    sure = mean.topk(2, dim=1).values.diff(dim=1).abs()[:, 0] > 1e-5
    assert sure.float().mean() > 0.99
    assert (torch.as_tensor(found.labels) == mean.argmax(dim=1))[sure].all()


@pytest.mark.parametrize("single", [True, False])
def test_memory_is_bounded_for_any_image(single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are never enlarged to more values than the image has px, with one pass and with several: all classes at
    once would be 19 times as many (2 GB for a Mapillary image of 4000x6000 px, of which this is a quarter a side)."""
    made = []
    enlarge = inference._resized

    def watched(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        enlarged = enlarge(images, size)
        made.append(enlarged.numel())
        return enlarged

    monkeypatch.setattr(inference, "_resized", watched)
    monkeypatch.setattr(inference, "STRIP_VALUES", inference.STRIP_VALUES // 16)
    logits = torch.randn((1, 19, 64, 96), generator=torch.Generator().manual_seed(0))
    found = inference.read(iter([logits] if single else [logits, logits.flip(3)]), (1000, 1500), single=single)
    assert found.labels.shape == (1, 1000, 1500)
    assert 0 < max(made) <= 1000 * 1500
