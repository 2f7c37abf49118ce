"""Rows side by side: each on GPUs of its own, as many at a time as there are, and none notices what befalls another."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flows import stages, story, tasks
from flows.run import Run
from flows.side_by_side import PLACE, Place, Slot, rows_side_by_side, slots
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.machine import Machine
from pipeline.errors import TryAgainError
from pipeline.work import interrupts
from pipeline.work.board import board
from tests import rows

Mini = Callable[..., ExperimentConfig]
TWO = [Slot(("0",)), Slot(("1",))]


@pytest.fixture(autouse=True)
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no Prefect server here."""
    monkeypatch.setattr(tasks, "progress_pages", lambda: lambda *progress: None)


def tried_twice(stage: Callable[..., Any], run: Run, *arguments: Any) -> Any:
    """As a task with one retry does."""
    try:
        return tasks.placed(stage, run, arguments)
    except TryAgainError:
        return tasks.placed(stage, run, arguments)


def test_six_trainings_on_two_gpus_take_three_rounds_and_a_killed_one_is_retried(
    mini: Mini, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, names = Run(mini()), ["a", "b", "killed", "d", "e", "f"]

    def row(name: str) -> Any:
        result = tried_twice(rows.segmenter, run, tmp_path, name)
        if name == "a":
            tried_twice(rows.evaluation, run, tmp_path, name)
        return result

    results = rows_side_by_side({name: partial(row, name) for name in names}, TWO)
    assert [result.partition(" on ")[0] for result in results] == names, "in order"
    times = three_rounds(tmp_path)
    assert float((tmp_path / "a.scored").read_text()) < times[-1][0], "a model is scored before the last one is begun"
    assert PLACE.get() is None
    assert "Traceback" not in capfd.readouterr().err


def three_rounds(notes: Path) -> list[tuple[float, float]]:
    """Checks that six trainings took turns on two devices. When each began and ended, in the order of their begin."""
    read = [file.read_text().split() for file in notes.glob("*.row")]
    for device in ("0", "1"):
        times = sorted((float(start), float(end)) for place, start, end in read if place == device)
        assert len(times) == 3, "three rounds"
        assert all(end <= start for (_, end), (start, _) in pairwise(times)), "one at a time"
    both = sorted((float(start), float(end)) for _, start, end in read)
    assert any(start < end for (_, end), (start, _) in pairwise(both)), "two devices at once"
    return both


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_trainings_side_by_side_give_what_they_give_in_turn(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in this process: another number gives other last bits
    table = ["training.methods={a: {}, b: {ube: true}}", "training.seeds=[0, 1, 2]", "training.iterations=60"]
    settings = ["generation=null", *table, "training.checkpoint_every=4", "machine.tracker=null"]

    def via(stage: Any) -> Any:
        return partial(tried_twice, rows.real_segmenter if stage is stages.segmenter else stage)

    runs = {name: Run(mini(*settings, f"machine.store={tmp_path / name}")) for name in ("side by side", "in turn")}
    story.experiment(runs["side by side"], via, partial(rows_side_by_side, given=TWO))
    three_rounds(tmp_path / "side by side" / "notes")
    assert (tmp_path / "side by side" / "notes" / "was-killed").exists()
    story.experiment(runs["in turn"], story.directly)
    for what, file in (("segmenter", "segmenter/model.safetensors"), ("evaluation", "evaluation.json")):
        made = [
            sorted(artifact.folder for _, artifact in run.history if artifact.kind == what) for run in runs.values()
        ]
        assert len(made[0]) == len(made[1]) == 6
        assert [(folder / file).read_bytes() for folder in made[0]] == [(f / file).read_bytes() for f in made[1]]


def test_when_one_fails_the_others_finish_and_no_other_begins(mini: Mini, tmp_path: Path) -> None:
    run = Run(mini())
    made = {name: partial(tried_twice, rows.defective, run, tmp_path, name) for name in ("defective", "b", "c", "d")}
    with pytest.raises(RuntimeError, match=r"(?s)'defective' failed:.*it is our fault"):
        rows_side_by_side(made, TWO)
    assert {file.stem for file in tmp_path.glob("*.row")} == {"b"}


def test_an_interrupt_ends_all_of_them(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(mini())

    def interrupted(row: str) -> Any:
        interrupts.note(2)
        raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            made = {name: partial(tried_twice, rows.segmenter, run, tmp_path, name) for name in ("a", "b", "c")}
            rows_side_by_side({"interrupted": partial(interrupted, "x"), **made}, TWO)
    finally:
        interrupts.start_anew()
    assert not list(tmp_path.glob("*.row"))


def test_each_row_has_lines_of_its_own_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("pipeline.work.board.time.monotonic", lambda: now)
    with board() as shown:
        tell, other = shown.named("ce, seed 0"), shown.named("ce, seed 1")
        for done in range(100, 201, 10):
            tell("training", done, 200)
            other("training", 0, 200)
            now += 30
    lines = [line[20:] for line in capsys.readouterr().err.splitlines()]
    own = [line for line in lines if line.startswith("ce, seed 0: ")]
    assert own[1] == "ce, seed 0: training: 120 of 200, 3.0 s each, 4 min 00 s left"
    assert own[-1] == "ce, seed 0: training: 200 of 200, 3.0 s each"
    assert len(own) == 6 and {line for line in lines if line not in own} == {"ce, seed 1: training: 0 of 200"}


def test_one_slot_or_one_row_needs_no_processes() -> None:
    assert rows_side_by_side({"a": PLACE.get}, TWO) == [None]
    assert rows_side_by_side({"a": lambda: 1, "b": lambda: 2}, TWO[:1]) == [1, 2]
    assert rows_side_by_side({"a": lambda: 1, "b": lambda: 2}, []) == [1, 2]


@pytest.mark.parametrize(
    ("machine", "visible", "groups"),
    [
        ({}, None, [("0",), ("1",), ("2",), ("3",), ("4",)]),
        ({"processes": 2}, None, [("0", "1"), ("2", "3")]),
        ({"processes": 8}, None, []),
        ({}, "3,GPU-7a", [("3",), ("GPU-7a",)]),
        ({}, "0,1,2,3,4,-1", [("0",), ("1",), ("2",), ("3",), ("4",)]),
        ({"device": "cpu"}, None, []),
        ({"executor": "ray"}, None, [(), ()]),
        ({"executor": "ray", "processes": 3}, None, [()]),
    ],
)
def test_gpus_are_grouped_by_the_processes_of_a_training(
    machine: dict[str, Any], visible: str | None, groups: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    monkeypatch.setattr("flows.ray.cluster.connected", nullcontext)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 16.0, "GPU": 3.0 if "processes" in machine else 2.0})
    found = slots(Machine(**machine))
    assert [slot.devices for slot in found] == groups
    for slot in found:
        assert slot.environment == ({"CUDA_VISIBLE_DEVICES": ",".join(slot.devices)} if slot.devices else {})


def test_a_row_has_its_part_of_the_machine(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(32)))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    run = Run(mini("machine.processes=2", "machine.workers=8", "machine.device=auto"))
    own = tasks.in_its_slot(run, Place({}, 4, print))
    assert own.config.machine == run.config.machine.model_copy(update={"workers": 2, "loader_workers": 4})
    assert own.config.model_copy(update={"machine": run.config.machine}) == run.config and own.history is run.history
    elsewhere = Place({}, 1, print).machine(run.config.machine)  # a Ray cluster's nodes know their own cores
    assert (elsewhere.workers, elsewhere.loader_workers) == (2, "auto")


def test_a_row_asks_the_server_for_the_gpus_of_one_training(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(processes=2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert tasks._slots(machine, "evaluation") == 8
    made = rows_side_by_side({name: lambda: tasks._slots(machine, "evaluation") for name in "ab"}, TWO)
    assert made == [2, 2]
