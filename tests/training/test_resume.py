"""A run that is killed at any moment and started again ends with the losses of one that never was."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.seeding import generator
from training.networks import Segmenter
from training.train import train

EVERYTHING = Method(generated=True, gap=True, ube=True, has=True, shade=True, feature_distance=True)


def _run(config: TrainingConfig, scenes: list[Scene], generated: Path, folder: Path, workers: int) -> None:
    machine = Machine(device="cpu", loader_workers=workers, tracker=None)
    train(config, EVERYTHING, 0, scenes, [generated], folder, machine=machine)


def _same(first: Path, second: Path) -> None:
    assert (first / "log.jsonl").read_text() == (second / "log.jsonl").read_text()
    weights, others = (Segmenter.from_pretrained(folder / "segmenter").state_dict() for folder in (first, second))
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path, workers: int
) -> None:
    config = tiny_config.of(
        Method(training={"iterations": 60, "checkpoint_every": 9, "validation_every": 20, "shade": {"basis": 4}})
    )
    _run(config, scenes, generated, tmp_path / "whole", workers=0)
    broken = tmp_path / "broken"
    log = broken / "log.jsonl"
    random, kills = generator("moments", workers), 0
    fork = multiprocessing.get_context("fork")
    for _ in range(40):
        process = fork.Process(target=_run, args=(config, scenes, generated, broken, workers))
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        process.start()
        while process.is_alive() and (not log.exists() or len(log.read_text().splitlines()) < lines + 1):
            time.sleep(0.01)  # at least one block
        time.sleep(float(random.uniform(0, 0.5)))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
    assert kills >= 3
    assert process.exitcode == 0
    _same(tmp_path / "whole", broken)


def test_a_log_line_that_was_cut_off_is_written_again(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path
) -> None:
    config = tiny_config.of(Method(training={"iterations": 6}))
    _run(config, scenes, generated, tmp_path / "whole", workers=0)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "log.jsonl").write_text('{"iteration": 3, "loss": 1.5}\n{"iterat')
    _run(config, scenes, generated, tmp_path / "cut", workers=0)
    _same(tmp_path / "whole", tmp_path / "cut")
    assert len(json.loads((tmp_path / "cut" / "log.jsonl").read_text().splitlines()[0])) > 2
