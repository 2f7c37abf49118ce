"""Any number of processes, dead or alive, make one data set: the same bytes, no finished shard made twice."""

import os
import pickle
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from generation.generate import generate
from generation.plan import plan
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene
from pipeline.store.artifacts import ArtifactStore, Stage
from pipeline.store.manifest import file_table
from pipeline.work.units import WORK
from tests.processes import start, wait_until, workers_of
from tests.tiny import tiny_generation
from tests.tracks import counting


def made(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished shard: another file under the same name has others."""
    statuses = {path.name: path.stat() for path in (folder / "data").glob("train-*.parquet")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in statuses.items()}


@pytest.mark.slow
@pytest.mark.timeout(1500)  # 5 starts of torch and diffusers
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tiny_weights: Path, scenes: list[Scene], tmp_path: Path
) -> None:
    settings = tiny_generation(tiny_weights, counts={"sunny": 7, "night": 4})
    requests = plan(settings, scenes)
    ticks: list[object] = []
    tables = []
    for number in (1, 2, 3):
        machine = Machine(device="cpu", workers=number)
        generate(settings, requests, scenes, tmp_path / str(number), machine=machine, progress=counting(ticks))
        shutil.rmtree(tmp_path / str(number) / WORK)  # as the store does
        tables.append(file_table(tmp_path / str(number)))
    assert tables[0] == tables[1] == tables[2] and len(tables[0]) == 6 + 2  # shards; plan and card
    assert len(ticks) == 3 * 11


@pytest.mark.slow
def test_a_painting_process_starts_within_8_seconds_of_cpu(tiny_weights: Path, tmp_path: Path) -> None:
    """Issue 10. Each by itself would import torch, diffusers, transformers and datasets: 10 s and more."""
    script = (
        "from functools import partial; from pathlib import Path; import sys\n"
        "from generation.shards import LIBRARIES; from pipeline.work.workers import watch\n"
        "from tests.workloads import start_painting\n"
        "if __name__ == '__main__':\n"
        "    list(watch(partial(start_painting, *map(Path, sys.argv[1:])), ['cpu'] * 2, LIBRARIES))\n"
    )
    folder = tmp_path / "told"
    folder.mkdir()
    process = start(tmp_path / "script.py", script, str(tiny_weights), str(folder))
    assert process.communicate(timeout=280)[1] == "" and process.returncode == 0
    seconds = [float(file.read_text()) for file in folder.iterdir()]
    assert len(seconds) == 2 and max(seconds) < 8


JOB = """
import pickle, sys
from pathlib import Path
from generation.generate import generate
from pipeline.config.machine import Machine
from pipeline.store.artifacts import ArtifactStore, Stage

if __name__ == "__main__":
    job, root, workers = sys.argv[1:]
    settings, requests, scenes = pickle.loads(Path(job).read_bytes())
    machine = Machine(device="cpu", workers=int(workers))
    build = lambda folder: generate(settings, requests, scenes, folder, machine=machine)
    ArtifactStore(Path(root)).get_or_build(Stage("generated", 1), settings, {}, build)
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)  # 12 starts of torch and diffusers: minutes each on a busy machine
def test_killed_at_20_random_moments_and_resumed(tiny_weights: Path, scenes: list[Scene], tmp_path: Path) -> None:
    """Ten times one of two painting processes is killed and, a moment later, the whole process group."""
    settings = tiny_generation(tiny_weights, counts={"sunny": 120, "night": 120}, steps=8, shard_size=4)
    job = tmp_path / "job.pickle"
    job.write_bytes(pickle.dumps((settings, plan(settings, scenes), scenes)))
    run = partial(start, tmp_path / "job.py", JOB, str(job))

    undisturbed = run(str(tmp_path / "whole"), "1")
    assert undisturbed.communicate(timeout=1200)[1] == "" and undisturbed.returncode == 0
    whole = ArtifactStore(tmp_path / "whole").find(Stage("generated", 1), settings, {})
    assert whole is not None
    times = sorted(time_ns for _, time_ns in made(whole.folder).values())
    longest = (times[-1] - times[0]) / 1e9 / 2 / 20  # s between kills: half of the set is made when all have struck

    store = ArtifactStore(tmp_path / "store")
    unfinished = store.partial(Stage("generated", 1), settings, {})
    moments = random.Random(0)
    finished: dict[str, tuple[int, int]] = {}
    for _ in range(10):
        before = lock_times(unfinished)
        process = run(str(tmp_path / "store"), "2")
        try:
            # some are killed while they paint their first shard, which is slow, most later
            begun = _claimed_since if moments.random() < 0.3 else _finished_since
            wait_until(partial(begun, unfinished, before, finished), 400)
            time.sleep(moments.uniform(0, longest))
            os.kill(moments.choice(workers_of(process.pid)), signal.SIGKILL)
            time.sleep(moments.uniform(0, longest))
            assert process.poll() is None, "it was killed while it worked"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
        now = made(unfinished)
        assert process.returncode == -signal.SIGKILL
        assert finished.items() <= now.items(), "a finished shard was made again or lost"
        finished = now
    assert 0 < len(finished) < 60

    last = run(str(tmp_path / "store"), "2")
    assert last.communicate(timeout=1200)[1] == "" and last.returncode == 0
    artifact = store.find(Stage("generated", 1), settings, {})
    assert artifact is not None
    assert finished.items() <= made(artifact.folder).items()
    assert artifact.manifest.files == whole.manifest.files


def _claimed_since(folder: Path, claims: set[tuple[str, int]], finished: dict[str, tuple[int, int]]) -> bool:
    return not lock_times(folder) <= claims


def _finished_since(folder: Path, claims: set[tuple[str, int]], finished: dict[str, tuple[int, int]]) -> bool:
    return not made(folder).keys() <= finished.keys()


def lock_times(folder: Path) -> set[tuple[str, int]]:
    """Which shards have been claimed, and when."""
    paths = (folder / WORK).glob("*.lock")
    return {(path.name, path.stat().st_mtime_ns) for path in paths}
