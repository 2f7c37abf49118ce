"""Any number of processes, dead or alive, make one data set: the same bytes, no finished shard made twice."""

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from generation import shards, workers
from generation.generate import generate
from generation.plan import plan
from generation.shards import Shard, claimed, split
from pipeline.config.machine import Machine
from pipeline.datasets import Scene
from pipeline.errors import UserError
from pipeline.manifest import file_table
from pipeline.records import Box, GenerationRequest
from pipeline.store import ArtifactStore, Stage
from tests.tiny import tiny_generation
from tests.tracks import counting
from tests.workloads import defect, die, forever, mistake, writing

ROOT = Path(__file__).parents[2]

ONE = Machine(device="cpu", generation_workers=1)


def made(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished shard: another file under the same name has others."""
    statuses = {path.name: path.stat() for path in (folder / "data").glob("train-*.parquet")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in statuses.items()}


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def empty(tmp_path: Path) -> list[Shard]:
    """Eight shards of three images, in a folder that is ready to be painted in."""
    (tmp_path / "data").mkdir()
    (tmp_path / shards.WORK).mkdir()
    request = GenerationRequest("night-000000", "0", Box(0, 0, 8, 8), 0, "night", "night", 0)
    return split([request] * 24, 3, tmp_path)


def test_a_shard_is_claimed_once_and_not_when_it_is_done(empty: list[Shard]) -> None:
    first, second = empty[:2]
    with claimed(first) as mine, claimed(first) as also_mine, claimed(second) as other:
        assert mine and not also_mine and other
    (first.work / f"{first.path.name}.99.partial").touch()
    (first.work / f"{second.path.name}.99.partial").touch()
    with claimed(first) as mine:
        assert mine
        assert [path.name for path in first.work.glob("*.partial")] == [f"{second.path.name}.99.partial"]
        first.path.touch()
    with claimed(first) as mine:
        assert not mine
    second.path.touch()
    shutil.rmtree(first.work)  # as the call that finishes the data set does
    with claimed(second) as mine:
        assert not mine


def test_who_joined_stops_when_the_other_call_has_finished_the_data_set(
    empty: list[Shard], scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "shard_painter", lambda *work: None)
    folder = empty[0].path.parents[1]
    shutil.rmtree(folder / shards.WORK)
    shutil.rmtree(folder / "data")  # it was renamed
    assert list(shards.paint_shards(empty, tiny_generation(Path("none")), scenes, "cpu")) == []


def test_processes_share_the_work_and_replace_their_dead(empty: list[Shard], capfd: pytest.CaptureFixture[str]) -> None:
    images = list(workers.watch(writing(empty, deaths=2), ["cpu"] * 2))
    assert len(images) == 24, "an image that was lost is counted once"
    assert all(shard.done for shard in empty)
    assert capfd.readouterr().err.count("ended by SIGKILL; another one takes over its shard") == 2


def test_processes_that_keep_dying_are_given_up() -> None:
    with pytest.raises(UserError, match="3 painting processes in a row died .* ended by SIGKILL") as caught:
        list(workers.watch(die, ["cpu"] * 2))
    assert "\n" not in str(caught.value)


def test_a_mistake_of_the_user_is_its_own_line_and_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(UserError, match=r"^labels/1.png: cannot be read$"):
        list(workers.watch(mistake, ["cpu"] * 2))
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in defect.*it is our fault"):
        list(workers.watch(defect, ["cpu"]))


def test_who_stops_watching_ends_the_processes(tmp_path: Path) -> None:
    images = workers.watch(partial(forever, tmp_path), ["cpu"] * 2)
    next(images)
    next(images)
    processes = [int(path.name) for path in tmp_path.iterdir()]
    assert len(processes) == 2 and all(map(alive, processes))
    images.close()  # type: ignore[attr-defined]  # it is a generator, which is what an interrupt closes
    assert not any(map(alive, processes))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_the_death_of_the_watcher_end_the_processes(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "from functools import partial; from pathlib import Path; import sys\n"
        "from generation.workers import watch; from tests.workloads import forever\n"
        "if __name__ == '__main__':\n    list(watch(partial(forever, Path(sys.argv[1])), ['cpu'] * 2))\n"
    )
    folder = tmp_path / "running"
    folder.mkdir()
    watcher = start(tmp_path / "script.py", script, str(folder))
    wait_until(lambda: len(list(folder.iterdir())) == 2)
    if number == signal.SIGINT:
        os.killpg(watcher.pid, number)  # as a terminal does
    else:
        os.kill(watcher.pid, number)
    errors = watcher.communicate(timeout=60)[1]
    processes = [int(path.name) for path in folder.iterdir()]
    wait_until(lambda: not any(map(alive, processes)))
    assert errors.count("Traceback") == (number == signal.SIGINT), "the watcher's own, and none of a process"


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_cores", lambda: 64)
    assert workers.worker_devices(Machine(device="cpu"), 100) == ["cpu"] * 4
    assert workers.worker_devices(Machine(device="cpu", generation_workers=9), 100) == ["cpu"] * 9
    assert workers.worker_devices(Machine(device="cpu", generation_workers=9), 2) == ["cpu"] * 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert workers.worker_devices(Machine(), 100) == ["cuda:0", "cuda:1"]
    assert workers.worker_devices(Machine(generation_workers=3), 100) == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tiny_weights: Path, scenes: list[Scene], tmp_path: Path
) -> None:
    settings = tiny_generation(tiny_weights, counts={"sunny": 7, "night": 4})
    requests = plan(settings, scenes)
    ticks: list[object] = []
    tables = []
    for number in (1, 2, 3):
        machine = Machine(device="cpu", generation_workers=number)
        generate(settings, requests, scenes, tmp_path / str(number), machine=machine, progress=counting(ticks))
        tables.append(file_table(tmp_path / str(number)))
    assert tables[0] == tables[1] == tables[2] and len(tables[0]) == 6 + 3  # shards; plan, card and picture
    assert len(ticks) == 3 * 11


JOB = """
import pickle, sys
from pathlib import Path
from generation.generate import generate
from pipeline.config.machine import Machine
from pipeline.store import ArtifactStore, Stage

if __name__ == "__main__":
    job, root, workers = sys.argv[1:]
    settings, requests, scenes = pickle.loads(Path(job).read_bytes())
    machine = Machine(device="cpu", generation_workers=int(workers))
    build = lambda folder: generate(settings, requests, scenes, folder, machine=machine)
    ArtifactStore(Path(root)).get_or_build(Stage("generated", 1), settings, {}, build)
"""

# The real one imports every detector there is, which takes longer than all painting here.
QUICK_DETECTOR = """
import numpy as np

class CannyDetector:
    def __call__(self, image, **options):
        return np.where(image > 128, 255, 0).astype(np.uint8)
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)  # 12 starts of torch and diffusers: minutes each on a busy machine
def test_killed_at_20_random_moments_and_resumed(tiny_weights: Path, scenes: list[Scene], tmp_path: Path) -> None:
    """Ten times one of two painting processes is killed and, a moment later, the whole process group."""
    settings = tiny_generation(tiny_weights, counts={"sunny": 120, "night": 120}, steps=8, shard_size=4)
    (tmp_path / "controlnet_aux.py").write_text(QUICK_DETECTOR)  # beside job.py, so it is found first
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
            os.kill(moments.choice(children(process.pid)), signal.SIGKILL)
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
    assert artifact.manifest["files"] == whole.manifest["files"]


def _claimed_since(folder: Path, claims: set[tuple[str, int]], finished: dict[str, tuple[int, int]]) -> bool:
    return not lock_times(folder) <= claims


def _finished_since(folder: Path, claims: set[tuple[str, int]], finished: dict[str, tuple[int, int]]) -> bool:
    return not made(folder).keys() <= finished.keys()


def lock_times(folder: Path) -> set[tuple[str, int]]:
    """Which shards have been claimed, and when."""
    paths = (folder / shards.WORK).glob("*.lock")
    return {(path.name, path.stat().st_mtime_ns) for path in paths}


def children(process: int) -> list[int]:
    """Its painting processes."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(pid) for pid, parent, command in rows if int(parent) == process and "spawn_main" in command]


def start(file: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a script in a process group of its own."""
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": f"{file.parent}:{ROOT}"}
    command = [sys.executable, str(file), *arguments]
    return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)


def wait_until(true: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
