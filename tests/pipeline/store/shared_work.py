"""A little pipeline over a remote store: `python shared_work.py REMOTE LEASE LOG ROOT...`, a process for each root.

Each unit that is made appends one line "stage unit pid" to LOG. The exit code counts the processes that failed.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import fsspec

sys.path.insert(0, str(Path(__file__).parents[3]))  # as pytest's `pythonpath`

from pipeline.store.artifacts import ArtifactStore, Stage

UNITS = 16
SECONDS = 1.0  # for one unit


def note(log: Path, stage: str, unit: int) -> None:
    """One line, whole however many processes append."""
    with log.open("ab", buffering=0) as file:
        file.write(f"{stage} {unit} {os.getpid()}\n".encode())


def main(root: Path, remote: str, lease: float, log: Path) -> None:
    """A world, images painted in shards, a model trained with checkpoints, a report of all."""
    store = ArtifactStore(root, remote=remote, lease=lease)

    def world(folder: Path) -> None:
        note(log, "world", 0)
        for name in ("a", "b"):
            (folder / name).write_text(name * 1000)

    def images(folder: Path) -> None:
        work, data = folder / ".work", folder / "data"
        work.mkdir(exist_ok=True)
        data.mkdir(exist_ok=True)
        for unit in range(UNITS):
            path = data / f"shard-{unit:02d}"
            if not path.exists():
                time.sleep(SECONDS)
                (work / path.name).write_bytes(bytes([unit]) * 100_000)
                (work / path.name).rename(path)
                note(log, "images", unit)
        work.rmdir()

    def model(folder: Path) -> None:
        state = folder / "checkpoint" / "state"
        state.parent.mkdir(exist_ok=True)
        losses = json.loads(state.read_text()) if state.exists() else []
        while len(losses) < UNITS:
            time.sleep(SECONDS)
            losses.append(len(losses) * 7919)
            (state.parent / "state.partial").write_text(json.dumps(losses))
            (state.parent / "state.partial").rename(state)
            note(log, "model", len(losses) - 1)
        state.unlink()
        state.parent.rmdir()
        (folder / "weights").write_text(json.dumps(losses))

    made = [store.get_or_build(Stage("world", 1), {}, {}, world)]
    for name, build in (("images", images), ("model", model)):
        made.append(store.get_or_build(Stage(name, 1), {}, {"before": made[-1].key}, build))

    def report(folder: Path) -> None:
        note(log, "report", 0)
        (folder / "report.json").write_text(json.dumps([artifact.manifest.model_dump()["files"] for artifact in made]))

    store.get_or_build(Stage("report", 1), {}, {artifact.kind: artifact.key for artifact in made}, report)


if __name__ == "__main__":
    fsspec.get_filesystem_class("s3")  # imported once for all
    children = []
    for place in sys.argv[4:]:
        if (pid := os.fork()) == 0:
            try:
                main(Path(place), sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    sys.exit(sum(os.waitpid(pid, 0)[1] not in {0, signal.SIGKILL} for pid in children))
