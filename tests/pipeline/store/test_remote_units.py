"""Units of an unfinished artifact, taken over by another machine over one remote store. Here it is a folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.config.machine import Machine as Config
from pipeline.store.artifacts import Artifact, ArtifactStore, Stage
from pipeline.work.progress import Track, silent
from pipeline.work.units import PARTS, WORK, Load, Unit, make_all, make_units
from tests.tracks import interrupted_after

STAGE = Stage("made", 1)


def test_units_of_another_machine_are_taken_over_with_their_digests(tmp_path: Path) -> None:
    """Case F07 over two machines: what the first one finished is neither made again nor trusted unseen."""
    made: list[tuple[str, str]] = []

    def build(machine: str, folder: Path, track: Track = silent) -> None:
        (folder / WORK).mkdir(exist_ok=True)
        units = [Unit(folder / "data" / f"{k}", folder / WORK, f"{k}", 1) for k in range(4)]
        units += [Unit(folder / WORK / PARTS / "x.npz", folder / WORK, "x", 1)]

        def make(task: str, path: Path) -> Iterator[None]:
            made.append((machine, task))
            path.write_text(f"content {task}")
            yield

        def execute(units: Sequence[Unit], load: Load, machine: Config) -> Iterator[None]:
            yield from (None for _ in make_units(units, load, "cpu"))

        make_all(units, lambda device: make, machine=Config(), execute=execute, progress=track, description="it")

    def get(name: str, track: Track = silent) -> Artifact:
        store = ArtifactStore(tmp_path / name, remote=f"file://{tmp_path}/remote", lease=30)
        return store.get_or_build(STAGE, {}, {}, lambda folder: build(name, folder, track))

    with pytest.raises(KeyboardInterrupt):
        get("a", interrupted_after(2))
    assert made == [("a", "0"), ("a", "1"), ("a", "2")]
    (contents,) = (path for path in (tmp_path / "remote").rglob("files/*") if path.read_bytes() == b"content 1")
    contents.write_text("content 7")
    artifact = get("b")
    assert made[3:] == [("b", "1"), ("b", "3"), ("b", "x")]
    assert sorted(artifact.manifest.files) == ["data/0", "data/1", "data/2", "data/3"], "no digests, no parts"
    assert not (artifact.folder / WORK).exists() and get("a").manifest == artifact.manifest
