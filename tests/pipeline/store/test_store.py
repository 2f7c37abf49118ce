"""The store: keys, atomic publishing, verification, resume, two processes."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.toytown import ToyTown
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact, ArtifactStore, Stage

STAGE = Stage("made", 1)
JSON_CONFIG = st.dictionaries(
    st.text(max_size=5), st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
)


def write(text: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "file.txt").write_text(text)

    return build


def never(folder: Path) -> None:
    raise AssertionError("must not be built")


def test_built_once_then_cached(tmp_path: Path) -> None:
    events = []
    store = ArtifactStore(tmp_path, lambda event, stage, artifact: events.append((event, stage.name)))
    built = store.get_or_build(STAGE, {"a": 1}, {"in": "k"}, write("hello"))
    again = store.get_or_build(STAGE, {"a": 1}, {"in": "k"}, never)
    assert events == [("building", "made"), ("built", "made"), ("cached", "made")]
    assert built == again
    assert built.folder == tmp_path / "made" / built.key[:16]
    assert store.find(STAGE, {"a": 1}, {"in": "k"}) == built
    assert store.find(STAGE, {"a": 2}, {"in": "k"}) is None


def test_manifest_says_where_it_comes_from(tmp_path: Path) -> None:
    artifact = ArtifactStore(tmp_path).get_or_build(STAGE, ToyTown(seed=3), {"in": "k"}, write("hello"))
    manifest = json.loads((artifact.folder / "manifest.json").read_text())
    assert manifest == artifact.manifest.model_dump(exclude_unset=True)
    assert manifest["files"] == {"sub/file.txt": {"sha256": hashlib.sha256(b"hello").hexdigest(), "size": 5}}
    assert (manifest["stage"], manifest["version"], manifest["key"]) == ("made", 1, artifact.key)
    assert manifest["config"]["seed"] == 3 and manifest["inputs"] == {"in": "k"}
    assert 0 <= manifest["seconds"] < 10
    assert "numpy" in manifest["versions"] and manifest["host"]


def test_key_depends_on_each_part_and_on_nothing_else(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    keys = {
        store.key(STAGE, {"a": 1}, {}),
        store.key(Stage("made", 2), {"a": 1}, {}),
        store.key(Stage("other", 1), {"a": 1}, {}),
        store.key(STAGE, {"a": 2}, {}),
        store.key(STAGE, {"a": 1}, {"in": "k"}),
    }
    assert len(keys) == 5
    assert ArtifactStore(tmp_path / "elsewhere").key(STAGE, {"a": 1}, {}) in keys
    expected = hashlib.sha256(b'["made",1,{"a":1},{}]').hexdigest()
    assert store.key(STAGE, {"a": 1}, {}) == expected


@settings(max_examples=30, deadline=None)
@given(JSON_CONFIG)
def test_key_ignores_the_order_of_keys(config: dict[str, object]) -> None:
    store = ArtifactStore(Path("unused"))
    backwards = dict(reversed(list(config.items())))
    assert store.key(STAGE, config, {}) == store.key(STAGE, backwards, {})


@pytest.mark.parametrize("damage", ["change", "shorten", "remove", "manifest"])
def test_damage_is_one_line_with_the_file_and_the_way_out(tmp_path: Path, damage: str) -> None:
    artifact = ArtifactStore(tmp_path).get_or_build(STAGE, {}, {}, write("hello"))
    path = artifact.folder / ("manifest.json" if damage == "manifest" else "sub/file.txt")
    if damage == "remove":
        path.unlink()
    else:
        path.write_text("hullo" if damage == "change" else "h")
    uses: tuple[Callable[[ArtifactStore], object], ...] = (
        lambda s: s.find(STAGE, {}, {}),
        lambda s: s.get_or_build(STAGE, {}, {}, never),
        lambda s: s.open(artifact.key),
    )
    for use in uses:
        with pytest.raises(UserError) as error:
            use(ArtifactStore(tmp_path))  # a new process: nothing is verified yet
        text = str(error.value)
        assert str(path) in text and f"delete the folder {artifact.folder}" in text and "\n" not in text


def test_failed_build_leaves_a_partial_that_is_resumed(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def interrupted(folder: Path) -> None:
        (folder / "first.txt").write_text("1")
        time.sleep(0.2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_build(STAGE, {}, {}, interrupted)
    assert store.find(STAGE, {}, {}) is None

    def rest(folder: Path) -> None:
        assert (folder / "first.txt").read_text() == "1"
        (folder / "second.txt").write_text("2")

    artifact = store.get_or_build(STAGE, {}, {}, rest)
    assert sorted(path.name for path in artifact.folder.iterdir()) == ["first.txt", "manifest.json", "second.txt"]
    assert artifact.manifest.seconds >= 0.2, "both attempts count"
    assert not list(tmp_path.rglob("*.partial"))


def test_kill_between_manifest_and_rename_is_finished_without_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*paths: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", killed)
        ArtifactStore(tmp_path).get_or_build(STAGE, {}, {}, write("hello"))
    artifact = ArtifactStore(tmp_path).get_or_build(STAGE, {}, {}, never)
    assert (artifact.folder / "sub" / "file.txt").read_text() == "hello"


def _slow_build(root: Path, log: Path, seconds: float) -> None:
    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        (folder / "file.txt").write_text("x")
        time.sleep(seconds)

    ArtifactStore(root).get_or_build(STAGE, {}, {}, build)


def test_two_processes_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_slow_build, args=(tmp_path / "store", log, 0.5)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert log.read_text() == "built\n"


def test_the_lock_of_a_killed_process_is_free_and_its_time_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    root = tmp_path / "store"
    worker = multiprocessing.get_context("fork").Process(target=_slow_build, args=(root, log, 60))
    worker.start()
    deadline = time.monotonic() + 20
    while not list(root.rglob("file.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    (next(root.rglob("*.partial")) / "file.txt").write_text("a later write")
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join(20)
    artifact = ArtifactStore(root).get_or_build(STAGE, {}, {}, lambda folder: None)
    assert artifact.manifest.seconds >= 0.25


def test_open_by_prefix(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    artifacts = [store.get_or_build(STAGE, {"n": n}, {}, write(str(n))) for n in range(3)]
    for artifact in artifacts:
        assert store.open(artifact.key) == store.open(artifact.key[:12]) == artifact
    with pytest.raises(UserError, match="no artifact's key starts"):
        store.open("0" * 64)
    with pytest.raises(UserError, match="3 artifacts"):
        store.open("")


def test_store_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="machine.store"):
        ArtifactStore(tmp_path / "file").get_or_build(STAGE, {}, {}, never)


def test_artifact_is_a_small_record(tmp_path: Path) -> None:
    artifact = ArtifactStore(tmp_path).get_or_build(STAGE, {}, {}, write("x"))
    assert isinstance(artifact, Artifact)
    with pytest.raises(AttributeError):
        artifact.key = "other"  # type: ignore[misc]  # frozen is what is tested
