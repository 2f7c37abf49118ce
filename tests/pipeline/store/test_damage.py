"""Damaged stores: whatever a file of it holds, it is noticed and one line, or nothing that is read has changed."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.store.artifacts import Artifact, ArtifactStore, Stage
from pipeline.store.building import ATTEMPTS
from pipeline.store.manifest import parse_manifest, read_manifest, sealed, verify_artifact
from pipeline.store.records import DamagedError
from tests.artifact_manifests import manifest_of
from tests.stores import cache, one_line

STAGE = Stage("made", 1)
FILE = {"sha256": "ab" * 32, "size": 5}


def write(folder: Path) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "file.txt").write_text("hello")


def never(folder: Path) -> None:
    raise AssertionError("built again")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return ArtifactStore(tmp_path).get_or_build(STAGE, {"name": "run"}, {}, write)


def without(name: str) -> dict[str, Any]:
    return {field: value for field, value in manifest_of({}).items() if field not in {name, "digest"}}


def text_of(content: object) -> str:
    return json.dumps(content)


MANIFESTS: dict[str, str] = {
    "empty": "",
    "no JSON": "{'files': {}}",
    "a list": "[]",
    "null": "null",
    "a number": "1" * 5000,
    "a text": '"manifest"',
    "deep": '{"config":' * 100_000,
    "deep, and whole": '{"config":' * 900 + "1" + "}" * 900,
    "no object": "{}",
    "NaN": text_of({**manifest_of({}), "seconds": float("nan")}),
    "a surrogate": text_of({**manifest_of({}), "host": "\ud800"}),
    **{f"no {name}": text_of(sealed(without(name))) for name in manifest_of({}) if name not in {"digest", "hardware"}},
    "files null": text_of(manifest_of(None)),
    "files a list": text_of(manifest_of([])),
    "an entry null": text_of(manifest_of({"a": None})),
    "an entry a text": text_of(manifest_of({"a": "ab" * 32})),
    "a long name": text_of(manifest_of({"x" * 300: FILE})),
    "a file in a file": text_of(manifest_of({"a": FILE, "a/b": FILE})),
    "itself": text_of(manifest_of({"manifest.json": FILE})),
    "key a number": text_of(manifest_of({}, key=3)),
    "key of another": text_of(manifest_of({}, key="ab" * 32)),
    "key short": text_of(manifest_of({}, key="abc")),
    "version a text": text_of(manifest_of({}, version="1")),
    "version a truth": text_of(manifest_of({}, version=True)),
    "config a list": text_of(manifest_of({}, config=[])),
    "inputs numbers": text_of(manifest_of({}, inputs={"a": 1})),
    "inputs null": text_of(sealed({**manifest_of({}), "inputs": None})),
    "seconds below zero": text_of(manifest_of({}, seconds=-1.0)),
    "finished never": text_of(manifest_of({}, finished="soon")),
    "finished without a zone": text_of(manifest_of({}, finished="2026-11-01T00:00:00")),
    "stage with dots": text_of(manifest_of({}, stage="../made")),
    "another field": text_of(manifest_of({}, run="rm -rf /")),
    "a wrong digest": text_of({**manifest_of({}), "digest": "ab" * 32}),
    "digest null": text_of({**manifest_of({}), "digest": None}),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_damaged_manifests(artifact: Artifact, kind: str) -> None:
    """Case F16: 17 kinds of manifest ended in tracebacks."""
    root = artifact.folder.parents[1]
    (artifact.folder / "manifest.json").write_bytes(MANIFESTS[kind].encode("utf-8", "surrogatepass"))
    uses: tuple[Callable[[ArtifactStore], object], ...] = (
        lambda store: store.find(STAGE, {"name": "run"}, {}),
        lambda store: store.get_or_build(STAGE, {"name": "run"}, {}, never),
        lambda store: store.open(artifact.key[:12]),
    )
    for use in uses:
        text = one_line(partial(use, ArtifactStore(root)))
        assert "manifest.json: " in text and f"delete the folder {artifact.folder}" in text
    code, out, _ = cache("list", "--store", root)
    assert code == 0 and "damaged" in out
    code, out, err = cache("verify", "--store", root)
    assert code == 2 and "0 of 1 artifacts are whole" in out and err.count("flexseg:") == 1
    code, _, err = cache("prune", "--older-than", 0, "--yes", "--store", root)
    assert code == 2 and "nothing is deleted" in err and artifact.folder.exists()


def test_every_flipped_bit_of_a_manifest_is_noticed_or_changes_nothing(artifact: Artifact) -> None:
    """Case F16: of 160 one-bit flips 48 went unnoticed."""
    data = (artifact.folder / "manifest.json").read_bytes()
    true = parse_manifest(data)
    noticed, same = 0, 0
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                assert parse_manifest(bytes(flipped)) == true, (place, bit)
                same += 1
            except DamagedError:
                noticed += 1
    assert noticed > 0.97 * 8 * len(data) and noticed + same == 8 * len(data)


def test_manifests_of_version_0_1_are_read(artifact: Artifact) -> None:
    """They have no digest, and the first ones no hardware."""
    path = artifact.folder / "manifest.json"
    new = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in new.items() if name != "digest"}))
    assert "its digest is missing" in one_line(lambda: read_manifest(artifact.folder))
    old = {name: value for name, value in new.items() if name not in {"digest", "differing", "hardware"}}
    path.write_text(json.dumps(old))
    again = ArtifactStore(artifact.folder.parents[1]).get_or_build(STAGE, {"name": "run"}, {}, never)
    assert again.manifest.hardware == "an older version" and again.manifest.files == artifact.manifest.files
    path.write_text(json.dumps({**old, "config": {"name": "another"}}))
    assert "its key is not that of" in one_line(lambda: read_manifest(artifact.folder))


ADDED: dict[str, Callable[[Path], object]] = {
    "a shard": lambda folder: (folder / "sub" / "train-2.parquet").write_bytes(b"x"),
    "a hidden file": lambda folder: (folder / ".hidden").touch(),
    "a link": lambda folder: (folder / "link").symlink_to("/etc/hostname"),
    "a link to nothing": lambda folder: (folder / "link").symlink_to("nothing"),
    "a link to a folder": lambda folder: (folder / "link").symlink_to("/etc"),
    "a pipe": lambda folder: os.mkfifo(folder / "pipe"),
    "a file whose name is no text": lambda folder: (folder / os.fsdecode(b"\xff\n")).touch(),
}


@pytest.mark.parametrize("what", ADDED)
def test_a_file_too_many_is_damage(artifact: Artifact, what: str) -> None:
    """Case F16: a further shard was trained on under the same key, and called whole."""
    ADDED[what](artifact.folder)
    root = artifact.folder.parents[1]
    text = one_line(lambda: ArtifactStore(root).get_or_build(STAGE, {"name": "run"}, {}, never))
    assert "is not in the artifact's manifest" in text
    assert cache("verify", "--store", root)[0] == 2


def test_a_file_that_became_a_link_is_damage(artifact: Artifact, tmp_path: Path) -> None:
    """Even to the same content: it is not ours, and changes when its owner wants."""
    (artifact.folder / "sub" / "file.txt").rename(tmp_path / "elsewhere")
    (artifact.folder / "sub" / "file.txt").symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in one_line(lambda: verify_artifact(artifact.folder))


def test_remains_of_nfs_are_no_damage(artifact: Artifact) -> None:
    (artifact.folder / ".nfs000000000001").touch()
    assert verify_artifact(artifact.folder) == artifact.manifest


@pytest.mark.parametrize("what", ["folders", "manifests", "stages"])
def test_swapped_artifacts_are_damage(tmp_path: Path, what: str) -> None:
    """Case F16."""
    store = ArtifactStore(tmp_path)
    first, second = (store.get_or_build(STAGE, {"n": n}, {}, write) for n in range(2))
    if what == "stages":
        (tmp_path / "other").mkdir()
        first.folder.rename(tmp_path / "other" / first.folder.name)
    else:
        names = [(a.folder if what == "folders" else a.folder / "manifest.json") for a in (first, second)]
        names[0].rename(tmp_path / "aside")
        names[1].rename(names[0])
        (tmp_path / "aside").rename(names[1])
        one_line(lambda: ArtifactStore(tmp_path).find(STAGE, {"n": 0}, {}))
    code, out, _ = cache("verify", "--store", tmp_path)
    assert code == 2 and ("1 of 2" if what == "stages" else "0 of 2") in out


@pytest.mark.parametrize("vouched", [False, True])
def test_a_manifest_without_files_is_damage(artifact: Artifact, vouched: bool) -> None:
    """Case F16: `files: {}` was called whole."""
    path = artifact.folder / "manifest.json"
    content = {**json.loads(path.read_text()), "files": {}}
    path.write_text(json.dumps(sealed(content) if vouched else content))
    one_line(lambda: verify_artifact(artifact.folder))


def killed_before_the_rename(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def killed(*paths: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", killed)
        ArtifactStore(root).get_or_build(STAGE, {}, {}, write)
    return ArtifactStore(root).partial(STAGE, {}, {})


def replaced(path: Path) -> Path:
    """The path, free for something else."""
    path.unlink()
    return path


LEFT: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda folder: (folder / "sub" / "file.txt").write_text("hellp"),
    "cut": lambda folder: (folder / "sub" / "file.txt").write_text("hell"),
    "a file too few": lambda folder: (folder / "sub" / "file.txt").unlink(),
    "a file too many": lambda folder: (folder / "more").write_text("x"),
    "a link": lambda folder: (folder / "sub" / "link").symlink_to("/etc"),
    "its manifest cut": lambda folder: (folder / "manifest.json").write_text("{"),
    "another's manifest": lambda folder: (folder / "manifest.json").write_text(json.dumps(manifest_of({}))),
    "its manifest a folder": lambda folder: replaced(folder / "manifest.json").mkdir(),
}


@pytest.mark.parametrize("damage", LEFT)
def test_what_was_finished_but_not_published_is_verified_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """Case F07: a flipped byte was published, and found by the next command."""
    partial = killed_before_the_rename(tmp_path, monkeypatch)
    LEFT[damage](partial)
    made: list[Path] = []

    def build(folder: Path) -> None:
        made.append(folder)
        assert not [path for path in folder.iterdir() if path.name != ATTEMPTS], "nothing damaged is gone on with"
        write(folder)

    artifact = ArtifactStore(tmp_path).get_or_build(STAGE, {}, {}, build)
    assert len(made) == 1 and verify_artifact(artifact.folder) == artifact.manifest
    assert list(artifact.manifest.files) == ["sub/file.txt"]
    assert "is built again" in capsys.readouterr().err and Path("/etc").is_dir()


RECORDS_OF_ATTEMPTS = ["", "[]", "null", "{}", '{"started": 1, "seconds": 0, "running_since": null}', "\x00",
                       '{"started": "2026-11-01T00:00:00+00:00", "seconds": "0", "running_since": null}',
                       '{"started": "2026-11-01T00:00:00+00:00", "seconds": NaN, "running_since": null}',
                       '{"started": "2026-11-01T00:00:00+00:00", "seconds": 1e999, "running_since": null}',
                       '{"started": "2026-11-01T00:00:00+00:00", "seconds": 0, "running_since": "now"}',
                       '{"started": "2026-11-01T00:00:00+00:00", "seconds": 0}', '{"started":' * 10_000]  # fmt: skip


@pytest.mark.parametrize("text", RECORDS_OF_ATTEMPTS, ids=range(len(RECORDS_OF_ATTEMPTS)))
def test_damaged_records_of_attempts_cost_the_times_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """Case F07: 6 of 8 were tracebacks."""
    store = ArtifactStore(tmp_path)
    partial = store.partial(STAGE, {}, {})
    partial.mkdir(parents=True)
    (partial / ATTEMPTS).write_text(text)
    artifact = store.get_or_build(STAGE, {}, {}, write)
    assert 0 <= artifact.manifest.seconds < 60
    assert "the times of earlier attempts are lost" in capsys.readouterr().err
