"""Units: claimed once, made once, whole or not there."""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.machine import Machine
from pipeline.errors import UserError
from pipeline.work.progress import silent
from pipeline.work.units import WORK, Make, Unit, claimed, make_all, make_units, writing
from pipeline.work.workers import run
from tests.tracks import counting, interrupted_after
from tests.workloads import load_writer, make_empty, units_in

ONE = Machine(device="cpu", workers=1)


def unfinished(folder: Path) -> list[str]:
    return [path.name for path in (folder / WORK).glob("*.partial")]


def test_a_unit_is_claimed_once_and_not_when_it_is_done(tmp_path: Path) -> None:
    first, second = units_in(tmp_path, 2)
    with claimed(first) as mine, claimed(first) as also_mine, claimed(second) as other:
        assert mine and not also_mine and other
    (first.work / "0.txt.99.partial").touch()
    (first.work / "1.txt.99.partial").touch()
    with claimed(first) as mine:
        assert mine and unfinished(tmp_path) == ["1.txt.99.partial"]
        make_empty(first)
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
    assert not unit.done and unfinished(tmp_path) == [], "room is what is needed now"
    with writing(unit) as path:
        path.write_text("whole")
        assert not unit.done
    assert unit.path.read_text() == "whole" and unfinished(tmp_path) == []


def test_how_many_images_would_be_lost(tmp_path: Path) -> None:
    made = units_in(tmp_path, 3)
    make_empty(made[1])
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
    make_empty(made[0])
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


def replaced(path: Path) -> Path:
    """The path, free for something else."""
    path.unlink()
    return path


DAMAGE: dict[str, Callable[[list[Unit]], object]] = {
    "a flipped bit": lambda units: units[1].path.write_bytes(
        bytes([units[1].path.read_bytes()[0] ^ 1, *units[1].path.read_bytes()[1:]])
    ),
    "cut": lambda units: units[1].path.write_bytes(units[1].path.read_bytes()[:-1]),
    "grown": lambda units: units[1].path.write_bytes(units[1].path.read_bytes() + b"0"),
    "empty": lambda units: units[1].path.write_bytes(b""),
    "another unit's": lambda units: shutil.copy(units[2].path, units[1].path),
    "a folder": lambda units: replaced(units[1].path).mkdir(),
    "a link": lambda units: replaced(units[1].path).symlink_to(units[2].path),
    "deleted": lambda units: units[1].path.unlink(),
    "without its digest": lambda units: units[1].digest.unlink(),
    "with another's digest": lambda units: shutil.copy(units[2].digest, units[1].digest),
    "with an empty digest": lambda units: units[1].digest.write_text(""),
    "with a digest that is no text": lambda units: units[1].digest.write_bytes(bytes(range(128, 192))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_units_are_made_again_and_no_others(tmp_path: Path, damage: str) -> None:
    """Case F07: what an interrupted stage left is taken up again only as it was written."""
    units = units_in(tmp_path, 4)
    work = partial(make_all, load=load_text, machine=ONE, execute=run, description="it")
    with pytest.raises(KeyboardInterrupt):
        work(units, progress=interrupted_after(9))
    assert [unit.done for unit in units] == [True, True, True, False]
    times = [unit.path.stat().st_mtime_ns for unit in units[:3]]
    DAMAGE[damage](units)
    ticks: list[object] = []
    work(units, progress=counting(ticks))
    assert [unit.path.read_text() for unit in units] == [f"unit {k} of 3 images" for k in range(4)]
    assert [times[k] == units[k].path.stat().st_mtime_ns for k in range(3)] == [True, False, True]
    assert len(ticks) == 6


def test_swapped_units_are_both_made_again(tmp_path: Path) -> None:
    """Case F07: two shards that are whole, under each other's names."""
    units = units_in(tmp_path, 3)
    work = partial(make_all, units, load_text, machine=ONE, execute=run, progress=silent, description="it")
    work()
    units[0].path.rename(tmp_path / "aside")
    units[1].path.rename(units[0].path)
    (tmp_path / "aside").rename(units[1].path)
    work()
    assert [unit.path.read_text() for unit in units] == [f"unit {k} of 3 images" for k in range(3)]


def test_a_unit_that_another_call_makes_is_not_deleted_under_its_hands(tmp_path: Path) -> None:
    unit = units_in(tmp_path, 1)[0]
    make_empty(unit)
    unit.path.write_text("damaged")
    with claimed(unit) as mine:
        assert not mine, "it looks done"
    lock = (unit.work / f"{unit.path.name}.lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    make_all([unit], load_text, machine=ONE, execute=lambda *_: iter(()), progress=silent, description="it")
    assert unit.path.read_text() == "damaged", "whoever holds the lock sees to it"
    lock.close()


def test_a_folder_in_the_place_of_a_lock_is_one_line(tmp_path: Path) -> None:
    unit = units_in(tmp_path, 1)[0]
    (unit.work / f"{unit.path.name}.lock").mkdir()
    with pytest.raises(UserError, match="is a folder, wanted .*: delete it and run again"):
        make_all([unit], load_text, machine=ONE, execute=run, progress=silent, description="it")


def load_text(device: str) -> Make:
    """What writes a text that depends on the unit alone."""

    def make(images: int, path: Path) -> Iterator[None]:
        yield from [None] * images
        path.write_text(f"unit {path.name.partition('.')[0]} of {images} images")

    return make
