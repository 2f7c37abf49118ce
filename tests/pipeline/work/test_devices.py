"""What `machine` leaves to be found out about the machine."""

import os

import pytest
import torch

from pipeline.config.machine import Machine
from pipeline.work.devices import loader_workers


@pytest.mark.parametrize(("cores", "processes", "wanted"), [(16, 1, 8), (16, 4, 4), (3, 2, 1), (2, 8, 1)])
def test_loader_workers_are_the_cores_over_the_processes(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, wanted: int
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert loader_workers(Machine(device="cpu", processes=processes)) == 0
    assert loader_workers(Machine(device="cpu", loader_workers=3)) == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loader_workers(Machine(processes=processes)) == wanted
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))  # where torchrun has started them
    assert loader_workers(Machine()) == wanted
