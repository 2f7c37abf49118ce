"""Stages on two real Ray nodes of this machine, of which one is killed. Minutes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flows import stages, tasks
from flows.ray import training as ray_training
from flows.ray import units as ray_units
from flows.run import Run
from flows.side_by_side import Slot, rows_side_by_side, slots
from flows.time_limits import EndedError
from pipeline.config.experiment import ExperimentConfig, load_config
from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact
from pipeline.work.units import WORK, Unit, claimed, writing
from tests import ray_loads, rows
from tests.ray_nodes import ROOT, Node, cluster
from tests.training.conftest import TINY, write_scenes
from training.checkpoints import checkpoints
from training.networks import Segmenter
from training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
RAY = Machine(device="cpu", executor="ray", tracker=None)


@pytest.fixture
def no_network() -> None:
    """Ray's nodes talk by the machine's own address, which the fixture of all other tests refuses."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes of one CPU each, for tests that kill neither."""
    with cluster() as two:
        yield two


def units_in(folder: Path, tasks: str) -> list[Unit]:
    (folder / WORK).mkdir(parents=True)
    return [Unit(folder / f"{k:02d}-{task}", folder / WORK, task, 2) for k, task in enumerate(tasks)]


def kill_when(ready: Callable[[], list[int]], kill: Callable[[list[int]], None]) -> threading.Thread:
    """Looks until `ready` names processes, and kills."""

    def watch() -> None:
        while not (found := ready()):
            time.sleep(0.1)
        kill(found)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def kill_processes(numbers: list[int]) -> None:
    for number in numbers:
        os.kill(number, signal.SIGKILL)


def test_both_nodes_make_units_and_keep_what_they_have_loaded(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    units = units_in(tmp_path / "made", "x" * 12)
    load = partial(ray_loads.load_sleeper, 1.0)
    assert len(list(ray_units.run(units, load, RAY, inputs=[tmp_path]))) == 24
    made = [unit.path.read_text().split() for unit in units]
    by_process = {process: [int(count) for _, p, count in made if p == process] for _, process, _ in made}
    assert len(by_process) == 2
    assert all(sorted(counts) == list(range(1, len(counts) + 1)) for counts in by_process.values())
    assert nodes[0].workers("Maker") == nodes[1].workers("Maker") == []
    assert list(ray_units.run(units, load, RAY)) == []


def test_a_unit_that_another_process_makes_is_left_to_it(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    units = units_in(tmp_path / "made", "xyz")
    with claimed(units[1]) as mine:
        assert mine
        images = ray_units.run(units, partial(ray_loads.load_sleeper, 0.0), RAY)
        assert [next(images) for _ in range(4)] == [None] * 4
        assert [unit.done for unit in units] == [True, False, True]
        with writing(units[1]) as path:
            path.write_text("made elsewhere")
    assert len(list(images)) == 2
    assert units[1].path.read_text() == "made elsewhere"


def test_what_fails_on_a_node_is_said_here(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^labels/b.png: cannot be read$"):
        list(ray_units.run(units_in(tmp_path / "mistake", "ab"), ray_loads.load_mistaken, RAY))
    with pytest.raises(RuntimeError, match=r"(?s)^a Ray worker on node .*ValueError: it is our fault"):
        list(ray_units.run(units_in(tmp_path / "defect", "c"), ray_loads.load_mistaken, RAY))
    with pytest.raises(UserError, match=r"^Ray node \S+ cannot read /nowhere: put it on a file system that all nodes"):
        list(ray_units.run(units_in(tmp_path / "input", "a"), ray_loads.load_mistaken, RAY, inputs=[Path("/nowhere")]))
    with pytest.raises(UserError, match="no node of the Ray cluster has a GPU"):
        list(ray_units.run(units_in(tmp_path / "gpu", "a"), ray_loads.load_mistaken, Machine(device="cuda")))


@pytest.mark.parametrize("deaths", [2, 3])
def test_dead_workers_are_replaced_unless_one_unit_kills_them_all(
    nodes: tuple[Node, Node], tmp_path: Path, deaths: int
) -> None:
    (notes := tmp_path / "notes").mkdir()
    units = units_in(tmp_path / "made", "abc")
    images = ray_units.run(units, partial(ray_loads.load_killed, deaths, notes), RAY)
    if deaths < ray_units.MOST_DEATHS:
        assert len(list(images)) == 6
    else:
        with pytest.raises(EndedError, match=r"^3 Ray workers died over 01-b"):
            list(images)


def test_an_interrupt_leaves_nothing_running(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    units_in(tmp_path / "made", "")
    script = f"""
from functools import partial
from pathlib import Path
from flows import interrupts
from flows.ray import units as ray_units
from pipeline.config.machine import Machine
from pipeline.work.units import Unit
from tests import ray_loads
interrupts.listen()
folder = Path({str(tmp_path / "made")!r})
units = [Unit(folder / str(k), folder / ".work", "x", 1) for k in range(1000)]
for _ in ray_units.run(units, partial(ray_loads.load_sleeper, 0.5), Machine(device="cpu", executor="ray")):
    print("made", flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number in (signal.SIGINT, signal.SIGTERM):
        driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        assert driver.stdout is not None
        assert driver.stdout.readline() == "made\n"
        driver.send_signal(number)
        assert driver.wait(60) != 0
        made = {path.name: path.read_text() for path in (tmp_path / "made").glob("[0-9]*")}
        time.sleep(2)
        assert nodes[0].workers("Maker") == nodes[1].workers("Maker") == []
        assert made == {path.name: path.read_text() for path in (tmp_path / "made").glob("[0-9]*")} != {}


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker gets a unit before both are there: tiny units would be done before the second one has started."""
    hand_out = ray_units.RayWorkers.hand_out
    complete: set[ray_units.RayWorkers] = set()

    def wait(pool: ray_units.RayWorkers) -> list[Unit]:
        if len(pool.workers) == 2:
            complete.add(pool)
        return hand_out(pool) if pool in complete else []

    monkeypatch.setattr(ray_units.RayWorkers, "hand_out", wait)


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("stage", ["generated", "evaluation"])
def test_painting_and_scoring_go_on_when_a_node_is_lost(
    write_config: Callable[..., Path], tiny_weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], stage: str
) -> None:
    path = write_config(tiny_weights, data={"toytown": {"source_images": 8, "target_images": 6, "size": [64, 128]}})
    model = tmp_path / "model"
    Segmenter.create(TrainingConfig.model_validate(TINY).network, 0).save_pretrained(model)

    def make(*changes: str) -> Artifact:
        run = Run(load_config(path, ["generation.counts={plain: 16, foggy: 16}", *changes]))
        return stages.generated(run) if stage == "generated" else stages.evaluation(run, "a model", model)

    local = make(f"machine.store={tmp_path / 'local'}").manifest.files
    with cluster() as (_, second):
        killer = kill_when(lambda: second.workers("Maker.make"), lambda _: second.kill())
        spread = make(
            f"machine.store={tmp_path / 'ray'}", "machine.executor=ray", "machine.workers=auto"
        ).manifest.files
        assert not killer.is_alive()
    assert spread == local
    assert "a Ray worker or its node was lost; another worker takes over its work" in capfd.readouterr().err


def test_rows_go_on_side_by_side_each_on_a_gpu_of_its_own(
    mini: Callable[..., ExperimentConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes with a simulated GPU each: as many trainings at a time, and one whose rank dies does not stop them."""
    monkeypatch.setattr(tasks, "progress_pages", lambda: lambda *progress: None)
    names = ["a", "b", "killed", "d", "e", "f"]
    with cluster(gpus=1):
        run = Run(mini("machine.executor=ray", "machine.device=auto"))
        given = slots(run.config.machine)
        assert given == [Slot(), Slot()]
        made = {name: partial(tasks.placed, rows.on_ray, run, (tmp_path, name)) for name in names}
        assert rows_side_by_side(made, given) == [None] * 6
    assert (tmp_path / "killed" / "was-killed").exists()
    notes = [file.read_text().split() for file in tmp_path.glob("*.row")]
    devices = {device for device, *_ in notes}
    assert len(notes) == 6 and len(devices) == 2 and all(device.endswith(":0") for device in devices)
    for device in devices:
        times = sorted((float(start), float(end)) for place, start, end in notes if place == device)
        assert all(end <= start for (_, end), (start, _) in pairwise(times)), "one at a time"


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    return write_scenes(tmp_path)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("processes", [1, 2])
def test_training_goes_on_when_a_rank_is_killed(
    nodes: tuple[Node, Node], scenes: list[Scene], tmp_path: Path, capfd: pytest.CaptureFixture[str], processes: int
) -> None:
    config = TrainingConfig.model_validate({**TINY, "iterations": 240, "block": 10, "checkpoint_every": 20})
    machine, here, there = RAY.model_copy(update={"processes": processes}), tmp_path / "here", tmp_path / "there"
    train(config, Method(), 0, scenes, [], here, machine=machine)
    name = "RayTrainWorker" if processes > 1 else "_on_rank"

    def ranks() -> list[int]:
        resumable = bool(checkpoints(there / "checkpoint"))
        return [number for node in nodes[::-1] for number in node.workers(name)][:1] if resumable else []

    killer = kill_when(ranks, kill_processes)
    train(config, Method(), 0, scenes, [], there, machine=machine, launch=ray_training.launch)
    assert not killer.is_alive()
    assert "lost a process; it is started again" in capfd.readouterr().err
    assert log(there) == log(here)
    assert not [path for path in there.iterdir() if path.name.startswith(".") or path.name == "checkpoint"]
