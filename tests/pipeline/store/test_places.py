"""Places that cannot be a store, or stop being one: one line, at once."""

import shutil
from pathlib import Path

import pytest

from pipeline.store.artifacts import ArtifactStore, Stage
from pipeline.store.building import ATTEMPTS
from tests.stores import cache, one_line

STAGE = Stage("made", 1)


def write(folder: Path) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "file.txt").write_text("hello")


def in_the_way(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(path.parent)
    else:
        path.write_text("in the way")


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".lock", "folder"), (".partial", "file"), (".partial", "link"), (f".partial/{ATTEMPTS}", "folder"), ("", "file")],
)
def test_what_is_in_the_way_is_one_line(tmp_path: Path, suffix: str, kind: str) -> None:
    """Case F16: a lock or an unfinished artifact that is a folder or a file."""
    store = ArtifactStore(tmp_path)
    key = store.key(STAGE, {}, {})
    in_the_way(tmp_path / "made" / f"{key[:16]}{suffix}", kind)
    text = one_line(lambda: store.get_or_build(STAGE, {}, {}, write))
    assert "delete" in text and f"{key[:16]}{suffix}" in text
    assert cache("list", "--store", tmp_path)[0] == 0
    assert cache("prune", "--unfinished", "--store", tmp_path)[0] == 0


@pytest.mark.parametrize("root", ["x" * 300, "/".join(["x" * 200] * 20), "file", "file/below", "nul\0", "s3:/u:p@b/c"])
def test_a_place_that_can_be_no_store_is_one_line_at_once(tmp_path: Path, root: str) -> None:
    """Issue 11: a store's path of 300 or 4,000 characters was a traceback."""
    (tmp_path / "file").touch()
    place = Path(root) if root.startswith("s3") else tmp_path / root
    assert "machine.store" in one_line(lambda: ArtifactStore(place))
    if "\0" not in root:
        code, _, err = cache("list", "--store", place)
        assert code == 2 and err.count("\n") == 1 and "u:p" not in err


def test_a_store_that_is_moved_away_in_mid_run_is_one_line(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        shutil.move(tmp_path / "store", tmp_path / "moved")
        (folder / "file").write_text("x")

    text = one_line(lambda: ArtifactStore(tmp_path / "store").get_or_build(STAGE, {}, {}, build))
    assert "the store was moved or deleted while it was in use" in text


def test_a_store_that_is_deleted_when_the_build_is_done_is_one_line(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        write(folder)
        shutil.rmtree(tmp_path / "store")

    text = one_line(lambda: ArtifactStore(tmp_path / "store").get_or_build(STAGE, {}, {}, build))
    assert "the store was moved or deleted while it was in use" in text
