"""What Ray's scheduling costs: units that sleep a known time, over many workers on one machine.

    .venv/bin/python -m benchmarks.scheduling [--workers 64] [--rounds 10] [--seconds 20] [--bytes 1000000]

Writes results/scheduling.json. A Ray node of `--workers` logical CPUs is started for it and ended after it. There are
`--rounds` units per worker; a unit sleeps `--seconds` and then writes `--bytes`, which come to the driver as a shard of
images does. The overhead is what a worker spends between the ends of two of its units beyond the sleep, in a run where
all of them are at work; "of the whole run" also counts the start of the workers' processes and the wait for the last.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean

from benchmarks.record import Row, record
from flows.ray import units as ray_units
from pipeline.config.machine import Machine
from pipeline.work.units import WORK, Unit
from tests.ray_loads import load_stamper
from tests.ray_nodes import Node


def measure(workers: int, rounds: int, seconds: float, size: int) -> Row:
    """One row: overhead per unit, and the driver's CPU time."""
    machine = Machine(device="cpu", executor="ray")
    with tempfile.TemporaryDirectory() as place:
        folder, count = Path(place), workers * rounds
        (folder / WORK).mkdir()
        units = [Unit(folder / f"{k:06d}", folder / WORK, k, 1) for k in range(count)]
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in ray_units.run(units, partial(load_stamper, seconds, size), machine):
            pass
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        between = [gap - seconds for gap in _gaps(units, workers)]
    return {
        "workers": workers,
        "units": count,
        "sleep (s)": seconds,
        "bytes": size,
        "overhead (%)": 100 * mean(between) / seconds,
        "largest (%)": 100 * max(between) / seconds,
        "of the whole run (%)": 100 * (wall * workers / count - seconds) / seconds,
        "driver's CPU (ms per unit)": 1000 * cpu / count,
    }


def _gaps(units: Sequence[Unit], workers: int) -> list[float]:
    """Seconds between the ends of a worker's units, from when the last worker has ended its first one."""
    ends: dict[str, list[float]] = {}
    for unit in units:
        process, end = unit.path.read_bytes().split(maxsplit=2)[:2]
        ends.setdefault(process.decode(), []).append(float(end))
    assert len(ends) == workers, f"{len(ends)} of {workers} workers had a unit: give more rounds"
    all_at_work = max(min(times) for times in ends.values())
    pairs = [pair for times in ends.values() for pair in pairwise(sorted(times))]
    return [after - before for before, after in pairs if before >= all_at_work]


def main() -> None:
    """Parse the arguments, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10, help="units per worker")
    parser.add_argument("--seconds", type=float, default=20, help="what a unit sleeps")
    parser.add_argument("--bytes", type=int, default=1_000_000, help="what a unit writes")
    arguments = parser.parse_args()
    node = Node(arguments.workers)
    os.environ["RAY_ADDRESS"] = node.address
    try:
        row = measure(arguments.workers, arguments.rounds, arguments.seconds, arguments.bytes)
    finally:
        node.kill()
        shutil.rmtree(node.folder, ignore_errors=True)
    record("scheduling", "Units of sleep on Ray workers of one machine", [row], ["ray"])


if __name__ == "__main__":
    main()
