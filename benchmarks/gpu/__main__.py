"""What a GPU is worth to flexseg, measured in the order of what is worth knowing, in as many minutes as there are.

    python -m benchmarks.gpu --minutes M [--size sd15|toy] [--device cuda|cpu] [--parts NAME ...] [--output FOLDER]

It needs neither Prefect nor Ray nor Hugging Face's datasets; docs/cluster.md says how to bring what it needs to a
machine without a network. Every row is written to FOLDER/gpu.json at once, so that a run that is cut off keeps what it
has measured. `--size toy` tries every part with toy town's networks, on a CPU too.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu import painting, segmenters, weights
from benchmarks.gpu.parts import Bench, Part, Results, measure_all
from benchmarks.record import RESULTS
from pipeline.config.machine import Machine
from pipeline.work.devices import device_of


def parts(output: Path) -> list[Part]:
    """All measurements, those first that are worth most. Seconds below which one is not begun are guesses for an
    H100."""
    return [
        Part("card", 5, painting.measure_card),
        Part("painting", 60, painting.measure_painting),
        Part("training step", 60, segmenters.measure_training),
        Part("batches", 40, painting.measure_batches),
        Part("evaluation", 20, segmenters.measure_evaluation),
        Part("resume", 20, segmenters.measure_resume),
        Part("loader", 40, segmenters.measure_reading),
        Part("toy weights", 30, partial(weights.measure_weights, output)),
    ]


def main() -> None:
    """Measures for the minutes that the command line gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--size", choices=("sd15", "toy"), default="sd15")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    names = [part.name for part in parts(RESULTS)]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    device, toy = device_of(Machine(device=options.device)), options.size == "toy"
    if device.type == "cpu" and not toy:
        raise SystemExit("there is no GPU here: try the parts with --size toy, or run this where there is one")
    chosen = [part._replace(least=0.0 if toy else part.least) for part in parts(options.output)]
    chosen = [part for part in chosen if part.name in options.parts]
    results = Results(options.output / "gpu.json", f"{options.size} on {device.type}, {options.minutes:g} minutes")
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        measure_all(chosen, Bench(device, toy, Path(folder)), results, 60 * options.minutes)


if __name__ == "__main__":
    main()
