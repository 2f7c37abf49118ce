"""Several passes over an image (mirrored, rescaled): their probabilities are averaged in strips, in bounded memory."""

import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from torch.nn.functional import interpolate

from evaluation import inference, resizing


@pytest.mark.parametrize("sizes", [[(9, 14), (9, 14)], [(9, 14), (13, 21)], [(70, 14), (9, 14)]])
def test_passes_are_averaged_in_strips_as_in_one_piece(
    sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of the softmax of torch's own enlarged logits, whatever the strips."""
    monkeypatch.setattr(inference, "STRIP_VALUES", 19 * 37 * 5)  # strips of 2 rows
    random = torch.Generator().manual_seed(0)
    passes = [3 * torch.randn((2, 19, *size), generator=random) for size in sizes]
    found = inference.read(iter(passes), (53, 37))
    enlarged = [
        interpolate(logits, (53, 37), mode="bilinear", align_corners=False, antialias=logits.shape[2] > 53)
        for logits in passes
    ]
    mean = torch.stack([logits.softmax(dim=1) for logits in enlarged]).mean(dim=0)
    torch.testing.assert_close(torch.as_tensor(found.confidence), mean.amax(dim=1), atol=5e-6, rtol=0)
    sure = mean.topk(2, dim=1).values.diff(dim=1).abs()[:, 0] > 1e-5
    assert sure.float().mean() > 0.99
    assert (torch.as_tensor(found.labels) == mean.argmax(dim=1))[sure].all()


@pytest.mark.parametrize("passes", [1, 2])
def test_all_classes_are_never_held_at_the_image_s_size(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one pass and with several: it would be 2 GB for an image of 4000x6000 px, of which this is a quarter
    a side."""
    made = []
    enlarge = resizing.resized

    def watched(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        enlarged = enlarge(images, size)
        made.append(enlarged.numel())
        return enlarged

    monkeypatch.setattr(resizing, "resized", watched)
    monkeypatch.setattr(inference, "resized", watched)
    monkeypatch.setattr(inference, "STRIP_VALUES", inference.STRIP_VALUES // 16)
    logits = torch.randn((1, 19, 64, 96), generator=torch.Generator().manual_seed(0))
    found = inference.read(iter([logits, logits.flip(3)][:passes]), (1000, 1500))
    assert found.labels.shape == (1, 1000, 1500)
    assert 0 < max(made) <= 1000 * 1500


PEAK = """
import resource, sys, numpy as np, torch
from evaluation.inference import make_predict
from pipeline.config.evaluation import EvaluationConfig

torch.set_num_threads(1)
weights = torch.rand(19, 3, 4, 4, generator=torch.Generator().manual_seed(0))
network = lambda image: torch.nn.functional.conv2d(image / 255, weights, stride=4)
config = EvaluationConfig.model_validate_json(sys.argv[1])
predict = make_predict(network, config, torch.device("cpu"))
predict(np.zeros((1, 64, 64, 3), np.uint8), (64, 64))
image = np.random.default_rng(0).integers(0, 256, (1, 4000, 6000, 3), np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
labels, confidence = predict(image, (4000, 6000))
assert labels.shape == confidence.shape == (1, 4000, 6000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "megabytes"),
    [
        ("{}", 1200),
        ('{"flip": true}', 1200),
        ('{"window": [512, 512], "stride": [512, 512]}', 1500),
        ('{"window": [512, 512], "stride": [512, 512], "flip": true, "scales": [0.5, 1.0]}', 2500),
    ],
)
def test_memory_at_24_megapixels(config: str, megabytes: int) -> None:
    """Peak above what was there before, of predicting a whole image of 4000x6000 px by a network of one layer. All
    logits at that size would be 1,740 MB for each copy."""
    done = subprocess.run([sys.executable, "-c", PEAK, config], capture_output=True, text=True, check=True)
    assert float(done.stdout) < megabytes
