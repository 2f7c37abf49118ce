"""Records of a store changed at random: what is read is what their JSON says, or the record is named in a line."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.registered_models import Model, records, save
from pipeline.data.fingerprints import FileDigests
from pipeline.files import file_sha256
from pipeline.store.artifacts import Artifact, ArtifactStore, Stage
from pipeline.store.building import ATTEMPTS
from pipeline.store.inventory import local_entries, remote_entries
from pipeline.store.locks import newest
from pipeline.store.manifest import MANIFEST, read_manifest, sealed
from pipeline.store.remote import Remote
from pipeline.store.shared_artifact import SharedArtifact
from tests.mutations import changed, damaged, refusal, tried

STAGE = Stage("made", 1)
DIGITS = "0123456789abcdef"
LOCK: dict[str, Any] = {
    "owner": "here, process 7", "home": "here:/store", "token": "t", "renewals": 3, "released": False,
    "started": "2026-11-01T00:00:00+00:00", "seconds": 1.5, "parts": {"data/a": {"sha256": "ab" * 32, "size": 3}},
}  # fmt: skip


def write(folder: Path) -> None:
    (folder / "a.txt").write_text("a")


@pytest.fixture
def built(tmp_path: Path) -> Artifact:
    """A finished artifact, whose manifest the inputs of a test are written over one after the other."""
    return ArtifactStore(tmp_path).get_or_build(STAGE, {"n": 1}, {}, write)


@pytest.fixture
def whole(built: Artifact) -> bytes:
    """Its manifest as it was written."""
    return (built.folder / MANIFEST).read_bytes()


def record(tree: Any) -> st.SearchStrategy[bytes]:
    """A record's bytes, its JSON changed or its text damaged."""
    text = json.dumps(tree).encode()
    return damaged(text) | changed(tree).map(lambda new: json.dumps(new).encode("utf-8", "surrogatepass"))


@tried(50)
@given(content=record(LOCK))
def test_locks(tmp_path: Path, content: bytes) -> None:
    remote = Remote(f"file://{tmp_path}")
    shared = SharedArtifact(remote, f"made/{DIGITS}", DIGITS)
    remote.write(f"made/{DIGITS}/locks/00002", content)
    line = refusal(lambda: newest(shared), f"made/{DIGITS}/locks/00002")
    (entry,) = remote_entries(remote)
    assert entry.damage == (line or "")
    if line is None:
        term = newest(shared)
        assert term is not None and term.number == 2
        assert term.lock.model_dump() == json.loads(content)
        assert all(".." not in name and not name.startswith("/") for name in term.lock.parts)


@tried(50)
@given(content=record({"name": "nightly", "model": "models/a", "baseline": None}))
def test_registered_models(tmp_path: Path, content: bytes) -> None:
    store = ArtifactStore(tmp_path)
    save(store, Model(name="other", model="b"))
    (tmp_path / "models" / "nightly.json").write_bytes(content)
    if refusal(lambda: records(store), tmp_path / "models" / "nightly.json") is None:
        found = records(store)
        assert [model.name for model in found] == ["nightly", "other"]
        assert found[0].model_dump(exclude_unset=True) == json.loads(content)


@tried(20)
@given(content=record({"started": "2026-11-01T00:00:00+00:00", "seconds": 5.0, "running_since": None}))
def test_attempts(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """They only say how long it took: whatever stands there, the artifact is built."""
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    partial = store.partial(STAGE, {}, {})
    partial.mkdir(parents=True)
    (partial / ATTEMPTS).write_bytes(content)
    built = store.get_or_build(STAGE, {}, {}, lambda folder: None)
    manifest = read_manifest(built.folder)
    assert manifest.seconds >= 0 and not list(built.folder.glob(".*"))


@tried(40)
@given(data=st.data(), resealed=st.booleans())
def test_manifests(built: Artifact, whole: bytes, data: st.DataObject, *, resealed: bool) -> None:
    path, content = built.folder / MANIFEST, json.loads(whole)
    new = data.draw(record(content))
    if resealed:
        tree = data.draw(changed(content))
        try:
            new = json.dumps(sealed(tree)).encode()
        except (ValueError, AttributeError, RecursionError):  # NaN, a surrogate, no object
            new = b"{}"
    path.write_bytes(new)
    (entry,) = local_entries(built.folder.parents[1])
    line = refusal(lambda: read_manifest(built.folder), path)
    assert bool(entry.damage) == bool(line) or "belongs to another key" in entry.damage
    if line is None:
        assert read_manifest(built.folder).model_dump(exclude_unset=True) == json.loads(new)


@tried(40)
@given(data=st.data(), resealed=st.booleans())
def test_remembered_digests(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, *, resealed: bool) -> None:
    """A damaged memory costs time only; a status or sum in it that somebody else wrote is one of another time."""
    place = tmp_path_factory.mktemp("data")
    (place / "a.png").write_bytes(b"old")
    digests = FileDigests(place / "memory")
    (place / "memory").mkdir()
    text = json.dumps({str(place / "a.png"): [[1, 2, 3, 4], "ab" * 32]})
    assert digests.of("name", [place / "a.png"]) == {place / "a.png": file_sha256(place / "a.png")}
    (memory,) = list((place / "memory").iterdir()) or [place / "memory" / "none"]
    new = data.draw(damaged(text.encode()) | changed(json.loads(text)).map(lambda tree: json.dumps(tree).encode()))
    memory.write_bytes(sealed_text(new) if resealed else new)
    assert digests.of("name", [place / "a.png"]) == {place / "a.png": file_sha256(place / "a.png")}


def sealed_text(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text
