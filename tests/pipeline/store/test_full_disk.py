"""Disks that are full or read-only, really: small file systems in memory, which root alone may mount (case F14)."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.registered_models import Model, save
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact, ArtifactStore, Stage
from pipeline.store.manifest import verify_artifact
from pipeline.work.units import WORK, Unit, writing

STAGE = Stage("made", 1)
ROOM = 256 * 1024


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int = 0) -> Path:
    """Takes all room but `leave` bytes."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    if leave:
        os.truncate(filler, max(0, filler.stat().st_size - leave))
    return filler


def build(folder: Path) -> None:
    for k in range(3):
        if not (folder / f"unit-{k}").exists():
            (folder / f"unit-{k}").write_bytes(bytes([k]) * 20_000)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("room", [0, 4096, 8192, 32768, 57344])
def test_a_store_that_fills_up_says_so_and_goes_on_when_there_is_room(small: Path, room: int) -> None:
    """At whatever moment: no room for a lock, a record, a unit, a manifest."""
    filler = fill(small, room)
    with pytest.raises(UserError, match="is full|No space left") as error:
        ArtifactStore(small / "store").get_or_build(STAGE, {}, {}, build)
    one_line(error)
    filler.unlink()
    artifact = ArtifactStore(small / "store").get_or_build(STAGE, {}, {}, build)
    assert verify_artifact(artifact.folder) == artifact.manifest
    assert sorted(artifact.manifest.files) == ["unit-0", "unit-1", "unit-2"]
    assert not list((small / "store").rglob("*.tmp"))


@pytest.mark.parametrize("room", [0, 8192, 32768])
def test_a_remote_that_is_full_is_named(small: Path, tmp_path: Path, room: int) -> None:
    def make(name: str) -> Artifact:
        return ArtifactStore(tmp_path / name, remote=f"file://{small}/remote", lease=1).get_or_build(
            STAGE, {}, {}, build
        )

    filler = fill(small, room)
    with pytest.raises(UserError, match=r"remote store file://.*: No space left on device; free space there") as error:
        make("a")
    one_line(error)
    filler.unlink()
    assert make("a").manifest == make("b").manifest


def test_fetching_into_a_full_store_is_one_line(small: Path, tmp_path: Path) -> None:
    remote = f"file://{tmp_path}/remote"
    ArtifactStore(tmp_path / "a", remote=remote).get_or_build(STAGE, {}, {}, build)
    filler = fill(small, 32768)
    with pytest.raises(UserError, match="the disk is full") as error:
        ArtifactStore(small / "b", remote=remote).get_or_build(STAGE, {}, {}, build)
    one_line(error)
    filler.unlink()
    ArtifactStore(small / "b", remote=remote).get_or_build(STAGE, {}, {}, build)


def test_a_unit_without_room_leaves_nothing(small: Path) -> None:
    unit = Unit(small / "data" / "0", small / WORK, None, 1)
    unit.work.mkdir()
    filler = fill(small, 12288)
    with pytest.raises(OSError, match="No space left"), writing(unit) as path:
        path.write_bytes(b"x" * 30_000)
    assert not unit.done and not list(unit.work.glob("*.partial"))
    filler.unlink()
    with writing(unit) as path:
        path.write_bytes(b"x" * 30_000)
    assert unit.done


def test_registering_a_model_on_a_full_disk_is_one_line(small: Path) -> None:
    fill(small)
    with pytest.raises(UserError, match="No space left on device; free space") as error:
        save(ArtifactStore(small / "store"), Model(name="mine", model="folder"))
    one_line(error)


def test_a_store_that_is_read_only_is_listed_and_verified(small: Path) -> None:
    """Issue 11: `cache list` and `cache verify` failed on it; they write nothing."""
    store = ArtifactStore(small / "store")
    artifact = store.get_or_build(STAGE, {}, {}, build)
    with pytest.raises(KeyboardInterrupt):
        store.get_or_build(Stage("broken", 1), {}, {}, interrupted)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    for command, words in (("list", artifact.key[:16]), ("verify", "1 of 1 artifacts are whole")):
        result = CliRunner().invoke(app, ["cache", command, "--store", str(small / "store")])
        assert result.exit_code == 0 and words in result.stdout
    assert ArtifactStore(small / "store").get_or_build(STAGE, {}, {}, build).key == artifact.key
    for stage in (Stage("other", 1), Stage("made", 2)):
        with pytest.raises(UserError, match="Read-only file system; set machine.store") as error:
            ArtifactStore(small / "store").get_or_build(stage, {}, {}, build)
        one_line(error)
    for arguments in (["--unfinished"], ["--older-than", "0"]):
        result = CliRunner().invoke(app, ["cache", "prune", *arguments, "--yes", "--store", str(small / "store")])
        assert result.exit_code == 2 and "Read-only file system" in result.stderr


def interrupted(folder: Path) -> None:
    (folder / "unit-0").touch()
    raise KeyboardInterrupt
