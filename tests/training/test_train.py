"""The whole loop on a tiny world: same losses however it is run, and it learns."""

import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.machine import Machine
from pipeline.config.training import Method, OptimizerConfig, TrainingConfig
from pipeline.datasets import Scene
from pipeline.errors import UserError
from training.networks import Segmenter
from training.predict import predictor
from training.train import train

T = TypeVar("T")
CPU = Machine(device="cpu")
FLEX = Method(generated=True, gap=True, ube=True, has=True)


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    from tests.training.conftest import paint  # noqa: PLC0415

    return tmp_path


def _log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return Segmenter.from_pretrained(folder / "segmenter").state_dict()
