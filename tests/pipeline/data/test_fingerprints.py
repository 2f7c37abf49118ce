"""Content decides over a data set's key, and is read once."""

import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import Dataset
from pipeline.data import fingerprints
from pipeline.data.datasets import find_scenes
from pipeline.data.fingerprints import FileDigests, fingerprint, labels_fingerprint
from pipeline.files import file_sha256

HOUR_AGO = time.time_ns() - 3600 * 10**9


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two pairs of uncompressed files, changed an hour ago."""
    root = tmp_path / "data"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(np.full((4, 6), k, np.uint8)).save(root / kind / f"{k}.bmp")
    return Dataset(name="own", root=root, layout="globs", images="images/*", labels="labels/*", ids="train")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read. Files count as settled at once."""
    read: list[str] = []

    def sha256(path: Path) -> str:
        read.append(f"{path.parent.name}/{path.name}")
        return file_sha256(path)

    monkeypatch.setattr(fingerprints, "file_sha256", sha256)
    monkeypatch.setattr(fingerprints, "SETTLED_S", 0.0)
    return read


def keys(dataset: Dataset, store: Path | None = None) -> tuple[str, str]:
    """The keys of the label maps, and of everything."""
    digests, scenes = FileDigests(store), find_scenes(dataset)
    labels = labels_fingerprint(dataset.name, scenes, digests)
    return labels, fingerprint(labels, dataset.name, scenes, digests)


def rewrite(path: Path) -> None:
    """Other content of the same size under the same modification time, as `cp -p`, `rsync -t` and `tar` write it."""
    before = path.stat()
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.usefixtures("hashed")
def test_case_09_a_label_rewritten_with_the_same_size_and_time(tmp_path: Path, dataset: Dataset) -> None:
    before = keys(dataset, tmp_path / "store")
    time.sleep(0.05)  # a change time of its own
    rewrite(dataset.root / "labels/1.bmp")
    after = keys(dataset, tmp_path / "store")
    assert after[0] != before[0] and after[1] != before[1]
    assert after == keys(dataset)


def in_place(labels: Path) -> None:
    with (labels / "1.bmp").open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        content[-1] ^= 1


def exchanged(labels: Path) -> None:
    (labels / "0.bmp").rename(labels / "aside")
    (labels / "1.bmp").rename(labels / "0.bmp")
    (labels / "aside").rename(labels / "1.bmp")


def another_folder(labels: Path) -> None:
    shutil.copytree(labels, labels.parent / "other")
    in_place(labels.parent / "other")
    labels.rename(labels.parent / "aside")
    (labels.parent / "other").rename(labels)


def another_link(labels: Path) -> None:
    shutil.copytree(labels, labels.parent / "other")
    in_place(labels.parent / "other")
    os.utime(labels.parent / "other" / "1.bmp", ns=(HOUR_AGO, HOUR_AGO))
    (labels / "1.bmp").unlink()
    (labels / "1.bmp").symlink_to(labels.parent / "other" / "1.bmp")


def through_another_name(labels: Path) -> None:
    (labels.parent / "second name").hardlink_to(labels / "1.bmp")
    with (labels.parent / "second name").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")


def deleted_and_made_anew(labels: Path) -> None:
    content = (labels / "1.bmp").read_bytes()
    (labels / "1.bmp").unlink()  # the next file may get its inode
    (labels / "1.bmp").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.usefixtures("hashed")
@pytest.mark.parametrize(
    "change", [in_place, exchanged, another_folder, another_link, through_another_name, deleted_and_made_anew]
)
def test_other_content_under_the_same_name_size_and_time(
    tmp_path: Path, dataset: Dataset, change: Callable[[Path], None]
) -> None:
    """Further ways in which a label changes and its date does not."""
    files = sorted((dataset.root / "labels").iterdir())
    for file in files:
        os.utime(file, ns=(HOUR_AGO, HOUR_AGO))
    before, sizes = keys(dataset, tmp_path / "store"), [file.stat().st_size for file in files]
    time.sleep(0.05)
    change(dataset.root / "labels")
    for file in files:
        os.utime(file, ns=(HOUR_AGO, HOUR_AGO))
    assert [file.stat().st_size for file in files] == sizes
    after = keys(dataset, tmp_path / "store")
    assert after[0] != before[0] and after[1] != before[1] and after == keys(dataset)


def test_photographs_do_not_count_for_what_depends_on_label_maps(dataset: Dataset) -> None:
    before = keys(dataset)
    rewrite(dataset.root / "images/0.bmp")
    after = keys(dataset)
    assert after[0] == before[0] and after[1] != before[1]


def test_copies_elsewhere_have_the_same_key(tmp_path: Path, dataset: Dataset) -> None:
    shutil.copytree(dataset.root, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.bmp"):
        os.utime(path, ns=(1, 1))
    assert keys(dataset.model_copy(update={"root": tmp_path / "copy"})) == keys(dataset)
    other = {"ids": {0: 0, 1: 2}}
    assert keys(dataset.model_copy(update=other))[0] != keys(dataset)[0]  # the same files mean something else


def test_files_are_read_once(tmp_path: Path, dataset: Dataset, hashed: list[str]) -> None:
    time.sleep(0.05)
    first = keys(dataset, tmp_path / "store")
    assert sorted(hashed) == ["images/0.bmp", "images/1.bmp", "labels/0.bmp", "labels/1.bmp"]
    hashed.clear()
    assert keys(dataset, tmp_path / "store") == first and hashed == []
    part = dataset.model_copy(update={"take": (0, 1)})
    keys(part, tmp_path / "store")
    Image.fromarray(np.full((5, 5), 1, np.uint8)).save(dataset.root / "images/1.bmp")
    assert keys(dataset, tmp_path / "store")[0] == first[0] and hashed == ["images/1.bmp"]


def test_a_file_that_just_changed_is_not_remembered(tmp_path: Path, dataset: Dataset, hashed: list[str]) -> None:
    fingerprints.SETTLED_S = 3600.0  # restored with the fixture's patch
    first = keys(dataset, tmp_path / "store")
    assert keys(dataset, tmp_path / "store") == first and len(hashed) == 8


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "folder", "text"])
def test_a_damaged_memory_costs_time_only(tmp_path: Path, dataset: Dataset, hashed: list[str], damage: str) -> None:
    time.sleep(0.05)
    first = keys(dataset, tmp_path / "store")
    hashed.clear()
    for memory in memories(tmp_path / "store"):
        content = memory.read_bytes()
        at = content.rindex(b'"') - 3
        changes = {
            "flip": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
            "cut": content[:-9],
            "empty": b"",
        }
        if damage == "folder":
            memory.unlink()
            memory.mkdir()
        else:
            memory.write_bytes(changes.get(damage, b"{}\n[1]"))
    assert keys(dataset, tmp_path / "store") == first and len(hashed) == 4


def test_a_store_that_cannot_be_written_to(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "file").touch()
    assert keys(dataset, tmp_path / "file" / "store") == keys(dataset)


def memories(store: Path) -> Iterator[Path]:
    found = list(store.iterdir())
    assert len(found) == 2
    yield from found
