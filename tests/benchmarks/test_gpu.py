"""`benchmarks.gpu` at toy size: every part gives its rows, without what the GPU machine lacks; and its time limit."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import painting
from benchmarks.gpu.__main__ import main, parts
from benchmarks.gpu.parts import Bench, OutOfTimeError, Part, Results, measure_all
from benchmarks.gpu.weights import until
from benchmarks.record import Row
from generation.models import load_networks

ROOT = Path(__file__).parents[2]
LACKING = ("prefect", "ray", "datasets", "controlnet_aux", "fastapi", "sqlalchemy", "typer", "tensorboard", "s3fs")
"""What the GPU machine neither has nor is brought."""


def rows_of(folder: Path, *parts: str) -> dict[str, Any]:
    """What the command wrote there: rows of every part, which all came to their end."""
    written = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))["parts"]
    assert {name: part["ended"] for name, part in written.items()} == dict.fromkeys(parts, "whole")
    rows = {name: part["rows"] for name, part in written.items()}
    assert all(rows.values())
    return rows


def arguments(folder: Path, *parts: str) -> list[str]:
    return ["gpu", "--minutes", "4", "--size", "toy", "--device", "cpu", "--output", str(folder), "--parts", *parts]


def test_quick_parts_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("card", "evaluation", "resume")
    monkeypatch.setattr(sys, "argv", arguments(tmp_path, *names))
    main()
    rows = rows_of(tmp_path, *names)
    assert rows["evaluation"][0]["labels as in fp32, %"] == 100
    assert rows["resume"][0]["largest difference of a loss"] == 0  # as docs/training.md promises on a CPU


@pytest.mark.slow
def test_every_part_at_toy_size_without_what_the_gpu_machine_lacks(tmp_path: Path) -> None:
    names = [part.name for part in parts(tmp_path)]
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({LACKING}))\n"  # importing one raises ImportError
        f"sys.argv = {arguments(tmp_path, *names)}\n"
        "runpy.run_module('benchmarks.gpu', run_name='__main__')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    rows = rows_of(tmp_path, *names)
    assert [row["way"] for row in rows["painting"]] == [painting.RELEASED, *painting.ways(torch.device("cpu"))]
    assert rows["batches"][0]["PSNR to one by one, dB"] == "equal"


def test_a_part_that_fails_or_takes_too_long_keeps_its_rows_and_the_next_one_begins(tmp_path: Path) -> None:
    def fails(bench: Bench, end: float) -> Iterator[Row]:
        yield {"a": 1}
        raise ValueError("no such kernel")

    def takes_long(bench: Bench, end: float) -> Iterator[Row]:
        yield {"b": 2.0}
        time.sleep(60)

    def quick(bench: Bench, end: float) -> Iterator[Row]:
        yield {"c": 3}

    results = Results(tmp_path / "gpu.json", "made")
    bench = Bench(torch.device("cpu"), True, tmp_path)
    started = time.monotonic()
    measure_all([Part("fails", 0, fails), Part("long", 0, takes_long), Part("quick", 5, quick)], bench, results, 0.5)
    assert time.monotonic() - started < 5
    parts = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"]
    assert [part["rows"] for part in parts.values()] == [[{"a": 1}], [{"b": 2.0}], []]
    assert parts["fails"]["ended"] == "failed: ValueError: no such kernel"
    assert parts["long"]["ended"].startswith("cut off")
    assert parts["quick"]["ended"].startswith("not begun")


def test_a_progress_that_ends_in_time() -> None:
    seen = []
    with pytest.raises(OutOfTimeError):
        for item in until(time.monotonic() + 0.05, range(1000), total=1000, description=""):
            seen.append(item)
            time.sleep(0.01)
    assert 1 < len(seen) < 20


def test_flops_of_a_sample_are_those_of_its_layers() -> None:
    """Two for each weight of a convolution or linear layer and each place that it is applied at, counted by hooks in
    the same pass; matrix products of attention come on top, and are few at toy size."""
    networks = load_networks("toy-town", torch.device("cpu"))
    layers = 0

    def add(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal layers
        assert isinstance(layer.weight, torch.Tensor)
        layers += 2 * layer.weight[0].numel() * output.numel()

    embedding = set(networks.controlnet.controlnet_cond_embedding.modules())  # it runs once, not in every step
    for network in (networks.unet, networks.controlnet):
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) and layer not in embedding:
                layer.register_forward_hook(add)
    counted = painting.sample_flops(networks)
    assert layers <= counted < 1.1 * layers
