"""Units: claimed once, made once, whole or not there."""

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.machine import Machine
from pipeline.work.progress import silent
from pipeline.work.units import WORK, Make, Unit, claimed, make_all, make_units, writing
from pipeline.work.workers import run
from tests.tracks import counting, interrupted_after
from tests.workloads import load_writer, units_in

ONE = Machine(device="cpu", workers=1)


def unfinished(folder: Path) -> list[str]:
    return [path.name for path in (folder / WORK).glob("*.partial")]


def test_a_unit_is_claimed_once_and_not_when_it_is_done(tmp_path: Path) -> None:
    first, second = units_in(tmp_path, 2)
    with claimed(first) as mine, claimed(first) as also_mine, claimed(second) as other:
        assert mine and not also_mine and other
    (first.work / "0.txt.99.partial").touch()
    (first.work / "1.txt.99.partial").touch()
    first.path.parent.mkdir()
    with claimed(first) as mine:
        assert mine and unfinished(tmp_path) == ["1.txt.99.partial"]
        first.path.touch()
    with claimed(first) as mine:
        assert not mine
    shutil.rmtree(first.work)  # as the call that finishes the work does
    with claimed(second) as mine:
        assert not mine


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    unit = units_in(tmp_path, 1)[0]
    with pytest.raises(OSError, match="disk full"), writing(unit) as path:
        path.write_text("half")
        raise OSError("disk full")
    assert not unit.done and len(unfinished(tmp_path)) == 1
    with writing(unit) as path:
        path.write_text("whole")
        assert not unit.done
    assert unit.path.read_text() == "whole" and unfinished(tmp_path) == []


def test_how_many_images_would_be_lost(tmp_path: Path) -> None:
    made = units_in(tmp_path, 3)
    made[1].path.parent.mkdir()
    made[1].path.touch()
    assert list(make_units(made, partial(load_writer, 0), "cpu")) == [1, 2, 0, 1, 2, 0]
    assert made[1].path.read_text() == "" != made[0].path.read_text()


def test_who_joined_waits_for_the_others_and_stops_when_they_have_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = units_in(tmp_path, 2)
    waits = []

    def other_call(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            shutil.rmtree(tmp_path)  # it was renamed

    monkeypatch.setattr(time, "sleep", other_call)
    with claimed(first) as mine:
        assert mine
        assert list(make_units([first, second], partial(load_writer, 0), "cpu")) == [1, 2, 0]
    assert len(waits) == 2


def test_an_interrupted_call_continues_and_shows_it(tmp_path: Path) -> None:
    made = units_in(tmp_path)
    load = partial(load_writer, 0)
    work = partial(make_all, made, load, machine=ONE, execute=run, description="it")
    with pytest.raises(KeyboardInterrupt):
        work(progress=interrupted_after(4))
    assert [unit.done for unit in made] == [True] + [False] * 7
    ticks: list[object] = []
    work(progress=counting(ticks))
    assert ticks == [None] * 21 and all(unit.done for unit in made)


def test_nothing_is_loaded_when_all_is_done(tmp_path: Path) -> None:
    def load(device: str) -> Make:
        raise AssertionError("loaded")

    made = units_in(tmp_path, 1)
    made[0].path.parent.mkdir()
    made[0].path.touch()
    make_all(made, load, machine=ONE, execute=run, progress=silent, description="it")
    assert list(run(made, load, ONE)) == list(run([], load, ONE)) == []


def test_a_failure_leaves_no_file_and_frees_the_claim(tmp_path: Path) -> None:
    def load(device: str) -> Make:
        def make(task: Any, path: Path) -> Iterator[None]:
            path.write_text("half")
            yield
            raise ValueError("broken")

        return make

    unit: Unit = units_in(tmp_path, 1)[0]
    with pytest.raises(ValueError, match="broken"):
        list(make_units([unit], load, "cpu"))
    assert not unit.done
    with claimed(unit) as mine:
        assert mine and unfinished(tmp_path) == []
