"""Stores of several machines over one remote store: built once, taken over, damaged, resumed. Here it is a folder."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.store import lease as leases
from pipeline.store.artifacts import Artifact, ArtifactStore, Stage
from pipeline.store.lease import Watch
from pipeline.store.locks import LockRecord, Term
from pipeline.store.manifest import file_table
from pipeline.store.records import FileTable
from pipeline.store.shared_artifact import SharedArtifact, is_part

STAGE = Stage("made", 1)
UNITS = 6


class Machine:
    """A machine with a local store of its own; notes what it makes."""

    def __init__(self, root: Path, name: str, lease: float = 30.0) -> None:
        self.made: list[int] = []
        self.events: list[str] = []
        self.store = ArtifactStore(
            root / name, lambda event, *_: self.events.append(event), remote=f"file://{root}/remote", lease=lease
        )

    def make(self, *, pause: float = 0.0, fail_at: int | None = None) -> Artifact:
        """The artifact, of units that are kept where they are there."""

        def build(folder: Path) -> None:
            (folder / ".work").mkdir(exist_ok=True)
            for unit in range(UNITS):
                path = folder / f"unit-{unit}"
                if path.exists():
                    continue
                if unit == fail_at:
                    raise RuntimeError("broken off")
                self.made.append(unit)
                (folder / ".work" / path.name).write_text(f"content {unit}")
                time.sleep(pause)
                (folder / ".work" / path.name).rename(path)
            (folder / ".work").rmdir()

        return self.store.get_or_build(STAGE, {}, {}, build)


def objects(root: Path) -> list[str]:
    """The remote's objects, contents by number only."""
    names = [path.relative_to(root / "remote").as_posix() for path in (root / "remote").rglob("*") if path.is_file()]
    return sorted(name.split("/", 2)[2] for name in names if "/files/" not in name)


def contents(root: Path) -> int:
    return len(list((root / "remote").glob("*/*/files/*")))


def in_threads(*works: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_second_machine_takes_what_the_first_has_built(tmp_path: Path) -> None:
    first, second = Machine(tmp_path, "a"), Machine(tmp_path, "b")
    built, taken = first.make(), second.make()
    assert (first.events, second.events) == (["building", "built"], ["fetching", "cached"])
    assert second.made == [] and built.manifest == taken.manifest
    assert file_table(built.folder) == file_table(taken.folder)
    assert objects(tmp_path) == ["manifest.json"] and contents(tmp_path) == UNITS
    third = Machine(tmp_path, "c").store
    assert third.find(STAGE, {}, {}) is None and third.open(built.key[:8]).manifest == built.manifest


def test_of_machines_at_once_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    machines = [Machine(tmp_path, name) for name in "abcd"]
    in_threads(*(lambda machine=machine: machine.make(pause=0.05) for machine in machines))
    assert sorted(unit for machine in machines for unit in machine.made) == list(range(UNITS))
    assert [machine.events[-1] for machine in machines].count("built") == 1
    assert objects(tmp_path) == ["manifest.json"]


def test_a_build_that_fails_hands_its_parts_over_at_once(tmp_path: Path) -> None:
    first, second = Machine(tmp_path, "a"), Machine(tmp_path, "b")
    with pytest.raises(RuntimeError):
        first.make(fail_at=4)
    (lock,) = (tmp_path / "remote").rglob("locks/*")
    assert set(json.loads(lock.read_text())["parts"]) == {f"unit-{unit}" for unit in range(4)}
    start = time.monotonic()
    second.make()
    assert time.monotonic() - start < 15, "the lease of 30 s was released"
    assert (first.made, second.made) == ([0, 1, 2, 3], [4, 5])
    assert first.make().folder.name and first.made == [0, 1, 2, 3]
    assert objects(tmp_path) == ["manifest.json"] and contents(tmp_path) == UNITS


def test_a_dead_owner_is_replaced_and_its_parts_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Machine(tmp_path, "a", 0.5), Machine(tmp_path, "b", 0.5)

    def dead(lease: leases.Lease, folder: Path) -> None:
        lease._send_parts(folder)
        lease._quick.remote.write(lease.path, lease.text())

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(leases.Lease, "_release", dead)
        first.make(fail_at=3)
    artifact = second.make()
    assert (first.made, second.made) == ([0, 1, 2], [3, 4, 5])
    assert second.events == ["waiting", "building", "built"]
    assert artifact.manifest.seconds >= 0 and not list((tmp_path / "b").rglob("*.mirror"))
    assert objects(tmp_path) == ["manifest.json"]


def test_parts_are_kept_while_a_slow_machine_still_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Machine(tmp_path, "a", 0.5), Machine(tmp_path, "b", 0.5)
    with pytest.raises(RuntimeError):
        first.make(fail_at=5)
    take = SharedArtifact.take

    def slow(shared: SharedArtifact, folder: Path, files: FileTable) -> None:
        time.sleep(0.3)  # longer than the time between two looks at the folder
        take(shared, folder, files)

    monkeypatch.setattr(SharedArtifact, "take", slow)
    second.make()
    assert (first.made, second.made) == ([0, 1, 2, 3, 4], [5])


def test_an_owner_that_was_only_slow_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Machine(tmp_path, "a", 0.4), Machine(tmp_path, "b", 0.4)
    monkeypatch.setattr(leases, "RENEWALS", 0.001)  # nobody renews in time
    go_on = threading.Event()

    def slow(folder: Path) -> None:
        go_on.wait(20)
        (folder / "file").write_text("from the slow one")

    def quick(folder: Path) -> None:
        (folder / "file").write_text("from the quick one")

    def late() -> None:
        first.store.get_or_build(STAGE, {}, {}, slow)

    thread = threading.Thread(target=late)
    thread.start()
    until(lambda: "building" in first.events)
    second.store.get_or_build(STAGE, {}, {}, quick)
    go_on.set()
    thread.join(20)
    assert first.events == ["building", "fetching", "cached"], "what was published first counts"
    copies = [(tmp_path / name).glob("made/*/file") for name in "ab"]
    assert [path.read_text() for copy in copies for path in copy] == ["from the quick one"] * 2
    assert objects(tmp_path) == ["manifest.json"] and contents(tmp_path) == 1


@pytest.mark.parametrize("damage", ["change", "remove", "manifest"])
def test_a_damaged_object_is_one_line_with_its_name_and_the_way_out(tmp_path: Path, damage: str) -> None:
    Machine(tmp_path, "a").make()
    path = next((tmp_path / "remote").rglob("manifest.json" if damage == "manifest" else "files/*"))
    if damage == "remove":
        path.unlink()
    else:
        path.write_text("other")
    with pytest.raises(UserError) as error:
        Machine(tmp_path, "b").make()
    text = str(error.value)
    assert f"{path.relative_to(tmp_path / 'remote')}" in text and "delete file://" in text and "\n" not in text
    assert not list((tmp_path / "b").glob("made/*/manifest.json")), "nothing damaged was published locally"


def test_what_was_made_before_it_was_shared_is_published(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "a")
    machine.store = ArtifactStore(tmp_path / "a")
    machine.make()
    alone = len(machine.made)
    again, other = Machine(tmp_path, "a"), Machine(tmp_path, "b")
    again.make(), other.make()
    assert (alone, again.made, other.made, other.events[-1]) == (UNITS, [], [], "cached")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("data/train-00000-of-00002.parquet", True),
        ("plan.jsonl", True),
        ("checkpoint/state.pt", True),
        ("checkpoint/state.pt.partial", False),
        (".work/train-00000.parquet.17.partial", False),
        (".work/train-00000.parquet.lock", False),
        (".work/train-00000.parquet.sha256", True),
        (".work/parts/fog-00000-of-00001.npz", True),
        (".work/.1f2e.tmp", False),
        (".attempts.json", False),
        ("scores.json.tmp", False),
        ("bank.partial.npz", False),
        ("model.partial/weights", False),
        ("manifest.json", False),
    ],
)
def test_parts_are_finished_files(name: str, part: bool) -> None:
    assert is_part(PurePath(name)) is part


def test_older_parts_are_swept_while_the_build_goes_on(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "a", 0.5)

    def build(folder: Path) -> None:
        for step in range(8):
            (folder / "state.partial").write_text(f"checkpoint {step}")
            (folder / "state.partial").rename(folder / "state.pt")
            time.sleep(0.3)
        assert contents(tmp_path) <= 4
        (folder / "state.pt").unlink()
        (folder / "weights").write_text("w")

    machine.store.get_or_build(STAGE, {}, {}, build)
    assert contents(tmp_path) == 1


def lock(renewals: int, *, released: bool = False) -> LockRecord:
    """An owner's, after so many renewals."""
    return LockRecord(owner="host 1", home="host:/store", token="t", renewals=renewals, released=released,
                      started="2026-11-01T00:00:00+00:00", seconds=0.0, parts={})  # fmt: skip


def test_only_an_observers_own_unbroken_time_makes_a_lease_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch, term = Watch(60), Term(1, lock(1))

    def look(at: float, term: Term) -> bool:
        nonlocal now
        now = at
        return watch.stale(term)

    assert not any(look(at, term) for at in range(0, 60, 10))
    assert not look(60, Term(1, lock(2))), "renewed"
    assert not any(look(at, term) for at in range(70, 120, 10))
    assert not look(1000, term), "the store was gone: the owner could not renew either"
    assert not any(look(at, term) for at in range(1010, 1070, 10))
    assert look(1070, term)
    assert look(1071, Term(2, lock(0, released=True))), "released"


@settings(max_examples=4, deadline=None)
@given(
    fails=st.lists(st.one_of(st.none(), st.integers(0, UNITS - 1)), min_size=3, max_size=3),
    pauses=st.lists(st.sampled_from([0.0, 0.01, 0.03]), min_size=3, max_size=3),
)
def test_whoever_fails_when_each_unit_is_made_once(
    tmp_path_factory: pytest.TempPathFactory, fails: list[int | None], pauses: list[float]
) -> None:
    root = tmp_path_factory.mktemp("shared")
    machines = [Machine(root, name) for name in "abc"]

    def work(machine: Machine, fail_at: int | None, pause: float) -> None:
        try:
            machine.make(pause=pause, fail_at=fail_at)
        except RuntimeError:
            machine.make(pause=pause)

    in_threads(*(lambda args=args: work(*args) for args in zip(machines, fails, pauses, strict=True)))
    assert sorted(unit for machine in machines for unit in machine.made) == list(range(UNITS))
    tables = [file_table(machine.make().folder) for machine in machines]
    assert tables[0] == tables[1] == tables[2] and objects(root) == ["manifest.json"]
