"""Toy town's generator, trained for as long as there is time."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.gpu.parts import Bench, OutOfTimeError
from benchmarks.record import Row
from generation.weights.ship import ship_weights
from generation.weights.train import train_from_scratch
from pipeline.config.experiment import load_config
from pipeline.config.machine import Machine

T = TypeVar("T")
SAVING_S = 5.0
"""Left for what is written last."""


def measure_weights(output: Path, bench: Bench, end: float) -> Iterator[Row]:
    """The preset toy-weights, as far as it comes; checkpoints and, once all is done, half-precision weights lie in
    `output`, from which the next call goes on."""
    config = load_config("toy-weights").weights
    assert config is not None
    machine = Machine(device="cuda" if bench.device.type == "cuda" else "cpu")
    folder = output / "toy-weights"
    how = "whole"
    try:
        train_from_scratch(config, folder, machine=machine, progress=partial(until, end - SAVING_S))
        ship_weights(config, folder, output / "toy-town")
    except OutOfTimeError:
        how = "to be continued"
    logs = sorted(folder.glob("training/*/log.jsonl"))
    if not logs:
        yield {"network": "none yet: the town is being rendered", "ended": how}
    for log in logs:
        last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        yield {"network": log.parent.name, **last, "ms per step": 1000 * last["seconds"] / last["step"], "ended": how}


def until(
    end: float, items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
) -> Iterator[T]:
    """A `Track` that raises OutOfTimeError at `end`, by `time.monotonic`."""
    for item in items:
        if time.monotonic() > end:
            raise OutOfTimeError
        yield item
