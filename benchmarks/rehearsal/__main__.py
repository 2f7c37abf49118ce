"""The experiments that ship, run at their true size on a CPU with random weights: what breaks, and what it takes.

    .venv/bin/python -m benchmarks.rehearsal [--work FOLDER] [--photographs FOLDER] [--label-maps FOLDER]
                                             [--presets NAME ...]

It makes a tree of the real data sets' layouts and sizes and networks of the published shapes with random weights, and
runs each preset by `flexseg plan` and `flexseg run`, unmodified but for counts, steps, iterations and paths: see
`configs.changes`. (On a processor without bf16, fp32 takes its place.) The first preset is scored on all targets, the
others on one image of the last. A rehearsal that was killed goes on where it was: finished parts stay in FOLDER. Writes
results/rehearsal.json.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.record import Row, record
from benchmarks.rehearsal.configs import Places, computes_bf16, write_config
from benchmarks.rehearsal.memory import read_looks, watched
from benchmarks.rehearsal.networks import write_networks
from benchmarks.rehearsal.parts import rows
from benchmarks.rehearsal.tree import write_tree
from pipeline.config.experiment import load_config
from pipeline.config.reading import presets

SHARED = Path(__file__).parents[3] / "shared" / "data"
"""Real photographs and label maps, where the project's founders have them."""
FREE_GB = 20
FIRST = "gta-dginstyle"
"""The preset that the others stand on."""
FLEXSEG = (sys.executable, "-m", "flows.cli")


def main() -> None:
    """Makes, plans, runs and records."""
    options = read_options()
    places = Places(options.work.absolute())
    places.work.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(places.work).free) < FREE_GB * 1e9 and not places.networks.is_dir():
        raise SystemExit(f"{places.work} has {free / 1e9:.0f} GB free, wanted {FREE_GB}: name another with --work")
    os.environ["HF_HUB_OFFLINE"] = "1"  # a path that is not replaced must not become a download
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "900")  # for machines that are busy
    say("making the data sets")
    write_tree(places.data, options.photographs, options.label_maps)
    say("making the networks")
    write_networks(places.networks)
    looked = places.work / "looks.jsonl"
    half = computes_bf16()
    table: list[Row] = []
    for preset in options.presets:
        config = write_config(preset, places, whole=preset == FIRST, half=half)
        say(f"flexseg plan {config}")
        subprocess.run([*FLEXSEG, "plan", str(config), "--cost"], check=True)
        say(f"flexseg run {config}")
        if code := watched([*FLEXSEG, "run", str(config)], looked):
            raise SystemExit(f"flexseg run {config} ended with exit code {code}: see above; run this again to go on")
        table += rows(preset, config, read_looks(looked))
        record(
            "rehearsal", "The shipped experiments at their true size, random weights, one image, few iterations", table
        )


def read_options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("cache/rehearsal"), help="20 GB are wanted there")
    parser.add_argument("--photographs", type=Path, default=found(SHARED / "camvid_val" / "images"))
    parser.add_argument("--label-maps", type=Path, default=found(SHARED / "gta_labels"), help="PNGs of train ids")
    parser.add_argument("--presets", nargs="+", default=real_presets(), choices=real_presets(), metavar="NAME")
    return parser.parse_args()


def real_presets() -> list[str]:
    """The presets that name data on disk, FIRST in front."""
    names = [name for name in presets() if load_config(name).data.source is not None]
    return sorted(names, key=lambda name: (name != FIRST, name))


def found(folder: Path) -> Path | None:
    """The folder if it is there."""
    return folder if folder.is_dir() else None


def say(what: str) -> None:
    """A line about what begins."""
    print(f"{time.strftime('%H:%M:%S')} rehearsal: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
