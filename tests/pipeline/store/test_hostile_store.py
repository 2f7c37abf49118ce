"""What others can write into a shared store: nothing of it writes, reads or deletes outside (case F01)."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipeline.errors import UserError
from pipeline.store import manifest as manifests
from pipeline.store import shared_artifact
from pipeline.store.artifacts import Artifact, ArtifactStore, Stage
from pipeline.store.manifest import sealed
from pipeline.store.remote import Remote
from pipeline.store.shared_artifact import SharedArtifact
from tests.pipeline.test_files import OUTSIDE

STAGE = Stage("made", 1)
EVIL, PRECIOUS = b"evil", b"precious"
NAMES = [name for name in OUTSIDE if isinstance(name, str) and name != "\ud800"] + [
    "../../../outside/PRECIOUS",
    "sub/../../../../outside/PRECIOUS",
    "manifest.json",
    "sub",
]


class World:
    """A remote store with one artifact, the empty store of another machine, and a folder that belongs to neither."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outside = root / "outside"
        self.outside.mkdir()
        (self.outside / "PRECIOUS").write_bytes(PRECIOUS)
        self.artifact = self.store("a").get_or_build(STAGE, {}, {}, build)
        self.there = root / "remote" / "made" / self.artifact.key[:16]
        for content in (EVIL, PRECIOUS):
            self.put(content)

    def store(self, name: str) -> ArtifactStore:
        return ArtifactStore(self.root / name, remote=f"file://{self.root}/remote", lease=5)

    def put(self, content: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        (self.there / "files" / sha256).write_bytes(content)
        return {"sha256": sha256, "size": len(content)}

    def plant(self, files: dict[str, Any]) -> None:
        """Rewrites the remote manifest, as somebody would who knows how it vouches for itself."""
        path = self.there / "manifest.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(sealed({**content, "files": {**content["files"], **files}})))

    def state(self) -> dict[str, bytes]:
        """All files that are neither in a store nor in the remote."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        own = [self.root / name for name in ("a", "b", "remote")]
        return {str(path): path.read_bytes() for path in files if not any(path.is_relative_to(place) for place in own)}


def build(folder: Path) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "file.txt").write_text("hello")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Fails where a file outside the stores is read."""
    world = World(tmp_path)

    def watched(path: Path) -> str:
        assert not path.resolve().is_relative_to(world.outside) and path.resolve().is_relative_to(tmp_path), path
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(manifests, "file_sha256", watched)
    monkeypatch.setattr(shared_artifact, "file_sha256", watched)
    return world


def one_line(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        act()
    assert "\n" not in str(error.value) and "\0" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_names_in_a_remote_manifest(world: World, name: str) -> None:
    """F01: fetched, opened by its key, verified."""
    before = world.state()
    world.plant({name: world.put(EVIL)})
    text = one_line(lambda: world.store("b").get_or_build(STAGE, {}, {}, build))
    assert "damaged object" in text and "delete file://" in text
    one_line(lambda: world.store("b").open(world.artifact.key[:12]))
    result = CliRunner().invoke(
        app, ["cache", "verify", "--store", str(world.root / "b"), "--remote", f"file://{world.root}/remote"]
    )
    assert result.exit_code == 2 and "0 of 1 artifacts are whole" in result.stdout
    assert world.state() == before
    assert not [path for path in (world.root / "b").rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_names_in_a_local_manifest(world: World, name: str) -> None:
    """F16: an artifact whose manifest lists a file outside that is whole."""
    path = world.artifact.folder / "manifest.json"
    content = json.loads(path.read_text())
    entry = {"sha256": hashlib.sha256(PRECIOUS).hexdigest(), "size": len(PRECIOUS)}
    path.write_text(json.dumps(sealed({**content, "files": {**content["files"], name: entry}})))
    before = world.state()
    text = one_line(lambda: ArtifactStore(world.root / "a").find(STAGE, {}, {}))
    assert "damaged artifact file" in text and f"delete the folder {world.artifact.folder}" in text
    result = CliRunner().invoke(app, ["cache", "verify", "--store", str(world.root / "a")])
    assert result.exit_code == 2 and "0 of 1 artifacts are whole" in result.stdout
    assert world.state() == before


def lock(parts: dict[str, Any]) -> dict[str, Any]:
    return {"owner": "host 1", "home": "host:/elsewhere", "token": "t", "renewals": 1, "released": True,
            "started": "2026-11-01T00:00:00+00:00", "seconds": 1.0, "parts": parts}  # fmt: skip


CONTENTS = {"fetched": EVIL, "the same": PRECIOUS, "missing": None}


@pytest.mark.parametrize(
    ("name", "content"),
    [(name, "fetched") for name in NAMES] + [(name, kind) for name in NAMES[-4:] for kind in ("the same", "missing")],
    ids=lambda value: ascii(value)[:30],
)
def test_names_in_a_lock(world: World, name: str, content: str) -> None:
    """F01: whoever takes over would write the first, and delete what is there under a part's name that is missing."""
    before = world.state()
    (world.there / "manifest.json").unlink()
    (world.there / "locks").mkdir(exist_ok=True)
    data = CONTENTS[content]
    entry = {"sha256": "ab" * 32, "size": 3} if data is None else world.put(data)
    (world.there / "locks" / "00001").write_text(json.dumps(lock({name: entry})))
    store = world.store("b")
    if name in {"manifest.json", "sub"}:  # names of the folder's own: the first is no part, the second is in the way

        def clear(folder: Path) -> None:
            (folder / "sub").unlink(missing_ok=True)
            build(folder)

        artifact = store.get_or_build(STAGE, {}, {}, clear)
        assert list(artifact.manifest.files) == ["sub/file.txt"]
    else:
        text = one_line(lambda: store.get_or_build(STAGE, {}, {}, build))
        assert "locks/00001: parts" in text and "delete file://" in text
    assert world.state() == before
    result = CliRunner().invoke(
        app, ["cache", "list", "--store", str(world.root / "b"), "--remote", f"file://{world.root}/remote"]
    )
    assert result.exit_code == 0 and ("damaged" in result.stdout or name in {"manifest.json", "sub"})


ENTRIES: dict[str, Any] = {
    "sha256 with dots": {"sha256": "../../../../outside/PRECIOUS", "size": 8},
    "sha256 absolute": {"sha256": "/etc/hostname", "size": 8},
    "sha256 short": {"sha256": "ab" * 31 + "a", "size": 8},
    "sha256 long": {"sha256": "ab" * 33, "size": 8},
    "sha256 in capitals": {"sha256": "AB" * 32, "size": 8},
    "sha256 with a line's end": {"sha256": "ab" * 32 + "\n", "size": 8},
    "sha256 of other digits": {"sha256": "١" * 64, "size": 8},
    "sha256 a number": {"sha256": 3, "size": 8},
    "sha256 null": {"sha256": None, "size": 8},
    "no sha256": {"size": 8},
    "size a text": {"sha256": "ab" * 32, "size": "8"},
    "size broken": {"sha256": "ab" * 32, "size": 8.5},
    "size below zero": {"sha256": "ab" * 32, "size": -1},
    "size a truth": {"sha256": "ab" * 32, "size": True},
    "size null": {"sha256": "ab" * 32, "size": None},
    "no size": {"sha256": "ab" * 32},
    "more": {"sha256": "ab" * 32, "size": 8, "mode": 0o777},
    "null": None,
    "a list": ["ab" * 32, 8],
    "a text": "ab" * 32,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_of_a_remote_manifest_and_of_a_lock(world: World, entry: str) -> None:
    before = world.state()
    world.plant({"file": ENTRIES[entry]})
    assert "manifest.json: files.file" in one_line(lambda: world.store("b").get_or_build(STAGE, {}, {}, build))
    (world.there / "manifest.json").unlink()
    (world.there / "locks").mkdir(exist_ok=True)
    (world.there / "locks" / "00001").write_text(json.dumps(lock({"file": ENTRIES[entry]})))
    assert "locks/00001: parts.file" in one_line(lambda: world.store("b").get_or_build(STAGE, {}, {}, build))
    assert world.state() == before


LOCKS: dict[str, tuple[str, str]] = {
    "a list": ("00001", "[]"),
    "null": ("00001", "null"),
    "empty": ("00001", ""),
    "no JSON": ("00001", "{'released': True}"),
    "no UTF-8": ("00001", "\udcff"),
    "deep": ("00001", '{"parts":' * 100_000),
    "no parts": ("00001", json.dumps({k: v for k, v in lock({}).items() if k != "parts"})),
    "parts null": ("00001", json.dumps({**lock({}), "parts": None})),
    "released a text": ("00001", json.dumps({**lock({}), "released": "yes"})),
    "seconds infinite": ("00001", json.dumps({**lock({}), "seconds": float("inf")})),
    "started never": ("00001", json.dumps({**lock({}), "started": "yesterday"})),
    "another field": ("00001", json.dumps({**lock({}), "run": "rm -rf /"})),
    "named by a word": ("mine", json.dumps(lock({}))),
    "of six digits": ("000001", json.dumps(lock({}))),
    "of other digits": ("٠٠٠٠١", json.dumps(lock({}))),
}


@pytest.mark.parametrize("kind", LOCKS)
def test_damaged_locks_are_one_line(world: World, kind: str) -> None:
    name, text = LOCKS[kind]
    (world.there / "manifest.json").unlink()
    (world.there / "locks").mkdir(exist_ok=True)
    (world.there / "locks" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    line = one_line(lambda: world.store("b").get_or_build(STAGE, {}, {}, build))
    assert f"locks/{name}: " in line and "delete file://" in line
    for command in (["list"], ["verify"], ["prune", "--unfinished", "--yes"]):
        result = CliRunner().invoke(
            app, ["cache", *command, "--store", str(world.root / "b"), "--remote", f"file://{world.root}/remote"]
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), command


def test_links_in_an_unfinished_folder_lead_nowhere(world: World) -> None:
    """A fetch, and a take-over, into a folder in which `sub` is a link to another place."""
    before = world.state()
    for name in ("b", "c"):
        partial = world.root / name / "made" / f"{world.artifact.key[:16]}.partial"
        partial.mkdir(parents=True)
        (partial / "sub").symlink_to(world.outside)
        (partial / "other").symlink_to(world.outside / "PRECIOUS")
    artifact = world.store("b").get_or_build(STAGE, {}, {}, build)
    assert (artifact.folder / "sub" / "file.txt").read_text() == "hello" and not (artifact.folder / "sub").is_symlink()
    (world.there / "manifest.json").unlink()
    (world.there / "locks").mkdir(exist_ok=True)
    (world.there / "locks" / "00001").write_text(json.dumps(lock({"sub/file.txt": world.put(EVIL)})))
    world.store("c").get_or_build(STAGE, {}, {}, build)
    assert {k: v for k, v in world.state().items() if "/c/" not in k} == before


def test_a_remote_part_list_is_never_sent_through_links(world: World) -> None:
    """What a build leaves as links is no part of it."""

    def linked(folder: Path) -> None:
        (folder / "stolen").symlink_to(world.outside / "PRECIOUS")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        world.store("b").get_or_build(Stage("other", 1), {}, {}, linked)
    sent = {path.read_bytes() for path in (world.root / "remote" / "other").rglob("files/*")}
    assert PRECIOUS not in sent


def test_pruning_a_remote_folder_does_not_follow_links_out_of_it(world: World) -> None:
    before = world.state()
    (world.there / "files" / "link").symlink_to(world.outside)
    shared = SharedArtifact(
        Remote(f"file://{world.root}/remote"), f"made/{world.artifact.key[:16]}", world.artifact.key
    )
    shared.sweep()
    shared.delete()
    assert world.state() == before


@pytest.mark.parametrize(
    "place",
    [
        "../../outside/0123456789abcdef",
        "made/../../outside/0123456789abcdef",
        "made/deep/0123456789abcdef",
        "made/[0-9]*",
    ],
)
def test_names_of_remote_folders_do_not_become_local_ones(
    world: World, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store lists whatever keys were written, dots too."""
    before = world.state()
    monkeypatch.setattr(Remote, "sizes", lambda remote, folder="": {f"{place}/manifest.json": 3})
    one_line(lambda: world.store("b").open(place.rpartition("/")[2][:8]))
    assert world.state() == before


def whole(artifact: Artifact) -> bool:
    return (artifact.folder / "sub" / "file.txt").read_text() == "hello"


def test_an_honest_store_still_works(world: World) -> None:
    assert whole(world.store("b").get_or_build(STAGE, {}, {}, build))
    assert whole(world.store("c").open(world.artifact.key))
