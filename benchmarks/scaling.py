"""Hours of worker time for large data sets on many workers: simulated from measured rates.

    .venv/bin/python -m benchmarks.scaling [--rate IMAGES_PER_S] [--start SECONDS] [--handing SECONDS]
                                           [--deaths PER_HOUR] [--price PER_HOUR]

Rates are those of one worker (a GPU, or a process on the CPU). Without --rate they come from results/generation.json:
the CPU's (all cores), or a GPU's once it was measured. A worker's start is measured here with toy town's weights,
and so is what a shard costs beside its images. What a cluster's scheduler needs per shard comes from
results/scheduling.json where `benchmarks.scheduling` has written it. The simulation itself (benchmarks/simulation.py)
is compared with a real run of sleeping units.
Writes results/scaling*.json and docs/scaling.png.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import NOT_MEASURED, RESULTS, Row, record
from benchmarks.simulation import Outcome, Rates, compare_with_reality, load_sleeper, simulate, units_in
from pipeline.config.machine import Machine
from pipeline.work import workers
from pipeline.work.units import Make, claimed, make_units

IMAGES, WORKERS = (10_000, 100_000, 1_000_000), (1, 8, 64)
SIZES = (8, 16, 32, 48, 64, 128, 256, 512)
DEFAULT_SIZE = 48  # generation.shard_size
FIGURE = Path(__file__).parents[1] / "docs" / "scaling.png"


def load_starter(weights: str, device: str) -> Make:
    """Loads the generator as a painting worker does; what comes back writes when that was done."""
    from generation.shards import load_painter
    from pipeline.config.generation import GenerationConfig

    load_painter(GenerationConfig.model_validate({"weights": weights}), [], Machine(), device)

    def make(images: int, path: Path) -> Iterator[None]:
        path.write_text(str(time.time()))
        yield

    return make


def measure_start(machine: Machine) -> float:
    """Seconds from the start of a worker process to its loaded models (toy town's)."""
    with tempfile.TemporaryDirectory() as place:
        units = units_in(Path(place) / "units", 1)
        before = time.time()
        device = workers.worker_devices(machine, 1)
        list(workers.watch(partial(make_units, units, partial(load_starter, "toy-town")), device))
        return float(units[0].path.read_text()) - before


def measure_shard(count: int = 500) -> tuple[float, float]:
    """Seconds that an empty shard costs in the store of this machine, and that a look at another's costs."""
    with tempfile.TemporaryDirectory(dir=".") as place:
        units = units_in(Path(place) / "units", count, items=0)
        start = time.perf_counter()
        list(make_units(units, partial(load_sleeper, 0, Path(place), 1), "cpu"))
        made = time.perf_counter() - start
        start = time.perf_counter()
        for unit in units:
            with claimed(unit):
                pass
        return made / count, (time.perf_counter() - start) / count


def measured_rates() -> dict[str, float]:
    """Images per second of one worker, as `benchmarks.generation` has measured them: all kinds that were."""
    content = json.loads((RESULTS / "generation.json").read_text())
    kinds = {("tiny", "ours"): "CPU"}
    if content["machine"]["gpu"] != "none":
        kinds = {("tiny", "ours, bf16"): "GPU, tiny", ("sd15", "ours, bf16"): "GPU, sd15"}
    return {
        kinds[row["size"], row["way"]]: float(row["images / s"])
        for row in content["rows"]
        if (row["size"], row["way"]) in kinds and row["images / s"] != NOT_MEASURED
    }


def measured_handing() -> float | None:
    """Seconds that Ray's driver needs per shard, from `benchmarks.scheduling`; None where that was not run."""
    file = RESULTS / "scheduling.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    return float(rows[0]["driver's CPU (ms per unit)"]) / 1000 if rows else None


def table(name: str, rates: Rates, price: float | None) -> list[Row]:
    """A row for each size of data set and number of workers, at the default shard size."""
    rows: list[Row] = []
    for images in IMAGES:
        for count in WORKERS:
            outcome = simulate(images, count, DEFAULT_SIZE, rates)
            hours = count * outcome.seconds / 3600
            row: dict[str, Any] = {"worker": name, "images": images, "workers": count}
            row |= {"hours": outcome.seconds / 3600, "worker-hours": hours}
            row |= {f"{part} %": 100 * getattr(outcome, part) for part in Outcome._fields[1:]}
            rows.append(row if price is None else row | {"cost": hours * price})
    return rows


def sizes(rates: Rates, images: int, count: int) -> list[Row]:
    """Where the time goes for each shard size; deaths are averaged over 5 simulations."""
    rows: list[Row] = []
    for size in SIZES:
        runs = [simulate(images, count, size, rates, seed=seed) for seed in range(5)]
        mean = {part: sum(getattr(run, part) for run in runs) / len(runs) for part in Outcome._fields}
        row: dict[str, Any] = {"images": images, "workers": count, "shard": size, "hours": mean.pop("seconds") / 3600}
        rows.append(row | {f"{part} %": 100 * value for part, value in mean.items()})
    return rows


def draw(rows: Sequence[Row], title: str) -> None:
    """The time that is not spent painting, by shard size: one panel for each size of data set."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(IMAGES), figsize=(11, 3.2), sharey=True, layout="constrained")
    for axis, images in zip(axes, IMAGES, strict=True):
        here = [row for row in rows if row["images"] == images]
        bottom = [0.0] * len(here)
        for part in Outcome._fields[2:]:
            values = [float(row[f"{part} %"]) for row in here]
            axis.bar([str(row["shard"]) for row in here], values, bottom=bottom, label=part)
            bottom = [low + value for low, value in zip(bottom, values, strict=True)]
        axis.set(title=f"{images:,} images", xlabel="images in a shard")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="% of the workers' time")
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(FIGURE, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure, simulate, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="images per second of one worker")
    parser.add_argument("--start", type=float, help="seconds until a worker has loaded its models")
    parser.add_argument("--handing", type=float, help="seconds of the scheduler per shard, one after another")
    parser.add_argument("--deaths", type=float, default=0.05, help="of a worker, per hour (assumed: one in 20 h)")
    parser.add_argument("--replaced", type=float, default=300.0, help="seconds to a lost worker's successor (assumed)")
    parser.add_argument("--price", type=float, help="of a worker's hour, in any currency")
    options = parser.parse_args()
    simulated, real = compare_with_reality()
    print(f"sleeping units on 3 processes: simulated {simulated:.2f} s, real {real:.2f} s")
    shard, look = measure_shard()
    start = options.start or measure_start(Machine())
    handing = options.handing if options.handing is not None else measured_handing()
    if handing is None:
        print(f"a cluster's scheduler: {NOT_MEASURED} (benchmarks.scheduling), taken as 0")
    safe = Rates(1.0, start, shard, look, handing or 0.0)
    costs: Row = {"start, s": start, "shard, ms": 1000 * shard, "look, ms": 1000 * look}
    costs = {**costs, "scheduler, ms": NOT_MEASURED if handing is None else 1000 * handing}
    record(
        "scaling_costs", "What a worker needs beside painting", [{**costs, "simulated, s": simulated, "real, s": real}]
    )
    kinds = {"as given": options.rate} if options.rate else measured_rates()
    rows: list[Row] = []
    for name, rate in kinds.items():
        rates = replace(safe, images_per_s=rate, replaced=options.replaced)
        rows += table(name, rates, options.price)
        rows += table(f"{name}, spot", replace(rates, deaths_per_h=options.deaths), options.price)
    if not any("CPU" not in name for name in kinds):
        rows.append(dict.fromkeys(rows[0], NOT_MEASURED) | {"worker": "GPU"})
    record("scaling", f"Data sets in shards of {DEFAULT_SIZE}, spot: {options.deaths} deaths per worker and hour", rows)
    name, rate = list(kinds.items())[-1]
    spot = replace(safe, images_per_s=rate, replaced=options.replaced, deaths_per_h=options.deaths)
    by_size = [row for images in IMAGES for row in sizes(spot, images, WORKERS[-1])]
    record("scaling_shards", f"{WORKERS[-1]} workers of {rate:.3g} images/s ({name}), by shard size", by_size)
    draw(by_size, f"What is not painting: {WORKERS[-1]} workers of {rate:.3g} images/s ({name}), "
                  f"{options.deaths} deaths per worker and hour")  # fmt: skip


if __name__ == "__main__":
    main()
