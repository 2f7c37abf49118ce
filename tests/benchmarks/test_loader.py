"""The ways that benchmarks.loader measures give the same crops."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import loader
from benchmarks.loading_ways import NEVER, Before
from pipeline.config.training import Method, TrainingConfig
from training.data import TrainingSet
from training.draws import Draw
from training.pools import ScenePool


@pytest.mark.parametrize("how", ["released", "antialiased"])
def test_crops_are_what_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Of one filter to the bit, of the other to a step of 255; all else that is drawn is the same."""
    monkeypatch.setattr(loader, "SIZE", (263, 478))
    scenes = loader.write_scenes(tmp_path, 2)
    changes = {"source_size": (180, 320), "source_keep_ratio": True, "source_filter": how, "crop": (128, 128)}
    config = TrainingConfig().of(Method(training={**changes, "crop_class_share": 0.75, "rare_class_crop": 200}))
    before, now = Before(scenes, config), TrainingSet([ScenePool.of(scenes * NEVER, config)], config, 0)
    for k in range(8):
        draw = Draw(0, k % 2, (-1, 0, 7)[k % 3], k, 0)
        one, other = before(draw), now[draw]
        assert torch.equal(one.label, other.label) and torch.equal(one.distortion, other.distortion)
        steps = np.abs(one.image.numpy().astype(int) - other.image.numpy())
        assert steps.max() <= (how == "antialiased")
