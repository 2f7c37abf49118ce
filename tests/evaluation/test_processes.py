"""Any number of threads and processes, dead or alive, score the same bytes, and no finished unit twice."""

import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import evaluate as evaluation
from evaluation.counts import read_image_counts
from evaluation.evaluate import evaluate
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene
from pipeline.store.manifest import file_table
from pipeline.work.progress import silent
from pipeline.work.units import WORK
from tests.processes import start, wait_until, workers_of
from tests.scored import load_small, write_scenes
from tests.tracks import counting


@pytest.fixture
def scenes(tmp_path: Path) -> Sequence[Scene]:
    """Noise, of which one file is broken."""
    random_pixels = np.random.default_rng(0)
    scenes = write_scenes(tmp_path / "scenes", 21, (48, 64))
    for scene in scenes:
        assert scene.image is not None
        Image.fromarray(random_pixels.integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(scene.image)
    scenes[7].label.write_bytes(b"no picture")
    return scenes


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "UNIT", 4)


def test_the_bytes_do_not_depend_on_the_number_of_threads_nor_on_the_batch(
    scenes: Sequence[Scene], tmp_path: Path
) -> None:
    before, tables = torch.get_num_threads(), []
    for threads, batch in ((1, 4), (2, 4), (2, 1)):
        torch.set_num_threads(threads)
        machine, folder = Machine(device="cpu", evaluation_batch=batch), tmp_path / f"{threads} {batch}"
        evaluate(load_small, {"fog": scenes}, EvaluationConfig(), folder, machine=machine, progress=silent)
        tables.append(file_table(folder))
    torch.set_num_threads(before)
    assert tables[0] == tables[1] == tables[2]
    assert read_image_counts(tmp_path / "1 4", "fog").bin_pixels.sum(axis=0)[:-1].any(), "it is not sure of everything"


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_processes(scenes: Sequence[Scene], tmp_path: Path) -> None:
    ticks: list[object] = []
    for number in (1, 2, 3):
        machine, folder = Machine(device="cpu", workers=number), tmp_path / str(number)
        domains = {"fog": scenes, "rain": [replace(scene, id=f"rain{scene.id}") for scene in scenes[:5]]}
        evaluate(load_small, domains, EvaluationConfig(), folder, machine=machine, progress=counting(ticks))
        shutil.rmtree(folder / WORK)  # as the store does
    assert len(ticks) == 3 * 26
    assert file_table(tmp_path / "1") == file_table(tmp_path / "2") == file_table(tmp_path / "3")


JOB = """
import sys, time
from pathlib import Path
from evaluation import evaluate as evaluation
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.machine import Machine
from pipeline.work.progress import silent
from tests.scored import load_small, read_scenes

def load_slowly(device, batch_size):
    predict = load_small(device, batch_size)
    def slowly(images, size):
        time.sleep(0.1)
        return predict(images, size)
    return slowly

if __name__ == "__main__":
    evaluation.UNIT = 4
    domains = {"fog": read_scenes(Path(sys.argv[1]), 21)}
    machine = Machine(device="cpu", workers=2)
    evaluation.evaluate(
        load_slowly, domains, EvaluationConfig(), Path(sys.argv[2]), machine=machine, progress=silent
    )
"""


def made(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished part: another file under the same name has others."""
    statuses = {path.name: path.stat() for path in (folder / WORK / "parts").glob("*.npz")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in statuses.items()}


def _more_than(finished: dict[str, tuple[int, int]], folder: Path) -> bool:
    return not made(folder).keys() <= finished.keys()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_the_middle_of_a_domain_and_resumed(scenes: Sequence[Scene], tmp_path: Path) -> None:
    """Twice one of two scoring processes is killed and, a moment later, the whole process group."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    evaluate(load_small, {"fog": scenes}, EvaluationConfig(), whole, machine=Machine(device="cpu"), progress=silent)
    run = partial(start, tmp_path / "job.py", JOB, str(tmp_path / "scenes"), str(folder))
    moments = random.Random(0)
    finished: dict[str, tuple[int, int]] = {}
    for _ in range(2):
        process = run()
        try:
            wait_until(partial(_more_than, finished, folder))
            os.kill(moments.choice(workers_of(process.pid)), signal.SIGKILL)
            time.sleep(moments.uniform(0, 0.3))
            assert process.poll() is None, "it was killed while it worked"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
        now = made(folder)
        assert finished.items() <= now.items(), "a finished unit was scored again or lost"
        finished = now
    assert 2 <= len(finished) < 6
    last = run()
    assert last.communicate(timeout=120)[1] == "" and last.returncode == 0
    for result in (whole, folder):
        shutil.rmtree(result / WORK)  # as the store does
    assert file_table(folder) == file_table(whole)
