"""Checkpoints of others (case 16): no code in them is run, what is none is said in a sentence of its own, and a file of
a few KB takes no more memory than its size allows."""

import gzip
import io
import pickle
import resource
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from training.foreign_files import read_tensors

STATE = {"layer.weight": torch.arange(77, dtype=torch.float32), "layer.steps": torch.tensor(3)}


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message and message.isprintable()
    assert "weights_only" not in message and str(path) in message
    return message


@pytest.mark.parametrize(
    "meta",
    [
        np.float64(0.68), np.float32(0.5), np.int64(7), np.bool_(True), {"best": [np.float64(1), {"f": 2.0}]}, None,
        "0.1", (1, 2), torch.Size([3]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_and_plain_values_beside_tensors_are_allowed(tmp_path: Path, meta: object, zipped: bool) -> None:
    path = tmp_path / "best.pth"
    held = {"meta": {"best_score": meta, "epoch": 3}, "state_dict": STATE}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    found = read_tensors(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_numbers_of_an_older_numpy_are_allowed(tmp_path: Path) -> None:
    """NumPy 1 wrote `numpy.core.multiarray`."""
    torch.save({"meta": np.float64(0.68), "state_dict": STATE}, tmp_path / "new.pth")
    _rewritten(tmp_path / "new.pth", b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read_tensors(tmp_path / "new.pth").keys() == STATE.keys()


def _rewritten(path: Path, old: bytes, new: bytes) -> None:
    """Replaces bytes of the pickle in a .pth file."""
    with zipfile.ZipFile(path) as archive:
        files = {file.filename: archive.read(file) for file in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            assert not name.endswith("data.pkl") or old in content
            archive.writestr(name, content.replace(old, new) if name.endswith("data.pkl") else content)


class Planted:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_unpickled(tmp_path: Path, zipped: bool) -> None:
    ran = tmp_path / "ran"
    held: list[Any] = [
        Planted(Path.touch, ran), Planted(eval, f"open({str(ran)!r}, 'w')"), Path("an object"),
        {"state_dict": {"a": Planted(Path.touch, ran)}}, np.array([Path("x")], dtype=object), Planted(print, "loud"),
    ]  # fmt: skip
    for content in held:
        torch.save({"meta": content, "state_dict": STATE}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        said = refused(tmp_path / "x.pth")
        assert "nothing is unpickled" in said
    assert not ran.exists()
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Planted(Path.touch, ran)))
    refused(tmp_path / "raw.pth")
    assert not ran.exists()


def _tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("latest.pth"))
    return content.getvalue()


def _zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("latest.pth", b"x")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html><title>Virus scan warning</title>", "is a web page"),
        (b"\xef\xbb\xbf \n<HTML>", "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a git-lfs pointer"),
        (gzip.compress(b"x", mtime=0), "is a packed archive"),
        (_tar(), "is a packed archive"),
        (b"7z\xbc\xaf\x27\x1c", "is a packed archive"),
        (_zip(), "is a zip archive, but none of torch"),
        (b"", "is empty"),
        (b"no checkpoint", "nothing is unpickled"),
        (b'{"error": "not found"}', "checkpoint"),
        (b"PK\x03\x04" + b"\0" * 60, "checkpoint"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_gets_its_own_sentence(tmp_path: Path, content: bytes, said: str, suffix: str) -> None:
    (tmp_path / f"page{suffix}").write_bytes(content)
    message = refused(tmp_path / f"page{suffix}")
    assert said in message or (suffix == ".safetensors" and "is damaged" in message)


def test_a_few_kilobytes_take_no_gigabytes(tmp_path: Path) -> None:
    """Storages, tensors and bytes that claim far more than the file holds."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pth").read_bytes()
    assert old.count(b"K\x4d") == 2  # the 77 numbers, as a storage and as a shape
    (tmp_path / "old.pth").write_bytes(old.replace(b"K\x4d", b"J\xff\xff\xff\x7f"))
    refused(tmp_path / "old.pth")
    torch.save(STATE, tmp_path / "new.pth")
    _rewritten(tmp_path / "new.pth", b"K\x4d", b"J\xff\xff\xff\x7f")
    refused(tmp_path / "new.pth")
    torch.save({"a": Planted(bytearray, 2**36)}, tmp_path / "bytes.pth")
    refused(tmp_path / "bytes.pth")
    torch.save({"a": torch.ones(1).expand(10**12)}, tmp_path / "view.pth")
    assert "claims to be [1000000000000]" in refused(tmp_path / "view.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}))
        archive.writestr("x/data/0", b"\0" * 30_000_000)
    assert "claims more bytes than it has" in refused(tmp_path / "bomb.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest < 500_000  # KB
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # as it was


def test_any_damage_is_one_line_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"meta": {"score": np.float64(1)}, "state_dict": STATE}, path)
    whole, random, said = path.read_bytes(), np.random.default_rng(0), 0
    for trial in range(120):
        content = bytearray(whole)
        for place in random.integers(0, len(content), 1 + trial % 3):
            content[place] = int(random.integers(256))
        path.write_bytes(content[: int(random.integers(1, len(content)))] if trial % 4 == 0 else content)
        try:
            read_tensors(path)
        except UserError:
            said += 1
    assert said > 30
