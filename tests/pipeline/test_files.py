"""Files that are whole or not there, and names from outside that become paths."""

import os
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.files import file_stem, inside, write_json, written_once, written_whole

OUTSIDE = [
    "../x",
    "../../../x",
    "a/../../x",
    "/x",
    "//x",
    "a//b",
    "./a",
    "a/.",
    "a/",
    "..",
    ".",
    "",
    "a\\b",
    "..\\x",
    "a\0b",
    "a\nb",
    "\ud800",
    "x" * 256,
    "é" * 128,
    "/".join("x" * 200 for _ in range(11)),
    None,
    3,
    ["a"],
]


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda name: ascii(name)[:30])
def test_names_that_are_no_plain_paths_are_one_line(tmp_path: Path, name: object) -> None:
    with pytest.raises(UserError, match="wanted a plain relative path") as error:
        inside(tmp_path, name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["a", "a/b", "a b", "...", "a..b/c", ".work/x", "[a]*?", "é", "x" * 255, "%2e%2e/x"])
def test_plain_names_are_used_exactly_as_they_are(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == inside(tmp_path, name, through_links=False) == tmp_path / name


def test_links_are_followed_only_where_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "store" / "file").symlink_to("/etc/hostname")
    assert inside(tmp_path / "store", "link/a") == tmp_path / "store/link/a"
    for name in ("link/a", "link/a/b", "link", "file"):
        with pytest.raises(UserError, match="is a symbolic link"):
            inside(tmp_path / "store", name, through_links=False)
    (tmp_path / "linked store").symlink_to(tmp_path / "store")  # where the store itself lies is its owner's choice
    assert inside(tmp_path / "linked store", "a", through_links=False)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)  # the unfinished file has a name, too
    with written_whole(path) as unfinished:
        unfinished.write_text("first")
    with pytest.raises(OSError, match="full"), written_whole(path) as unfinished:
        unfinished.write_text("half of the sec")
        assert path.read_text() == "first"
        raise OSError("full")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"score": float("nan")})
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_of_two_that_write_once_the_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(FileExistsError), written_once(path) as second:
        second.write_text("second")
        with written_once(path) as first:
            first.write_text("first")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_what_is_durable_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        seen.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, (tmp_path / "file").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    with written_whole(tmp_path / "file", unfinished=tmp_path / "part") as unfinished:
        unfinished.write_text("x")
    assert seen == [("part", False), (tmp_path.name, True)], "first its content, then its name"
    with written_whole(tmp_path / "note", durable=False) as unfinished:
        unfinished.write_text("x")
    assert len(seen) == 2


def test_stems_are_short_safe_and_differ(tmp_path: Path) -> None:
    texts = [
        "a",
        "a/b",
        "a_b",
        "../x",
        "x" * 300,
        "x" * 299 + "y",
        "[bold]",
        "\u00e9",
        "e\u0301",
        ".hidden",
        "a_b-c14cddc033",
        "",
        "\ud800",
    ]
    stems = [file_stem(text) for text in texts]
    assert len(set(stems)) == len(texts) and stems[0] == "a" and stems[2] == "a_b"
    for stem in stems:
        assert inside(tmp_path, stem) and "/" not in stem and not stem.startswith(".")
