"""Places that cannot be written to are one line before the work; what is written appears at once, when it is whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipeline.errors import UserError
from pipeline.files import check_output, folder_written_whole, unfinished_folder


@pytest.fixture
def config(write_config: Callable[..., Path], stand_in_weights: Path) -> Path:
    return write_config(stand_in_weights)


COMMANDS = {
    "generate --output": ["generate", "CONFIG", "--output", "PLACE"],
    "export --to": ["export", "SET", "--to", "PLACE"],
    "plan --write": ["plan", "CONFIG", "--write", "PLACE"],
    "convert --output": ["convert", "other.pth", "--output", "PLACE"],
    "weights train --output": ["weights", "train", "toy-weights", "--output", "PLACE"],
    "weights train --ship": ["weights", "train", "toy-weights", "--output", "OUT", "--ship", "PLACE"],
    "models register --store": ["models", "register", "name", "--model", "SET", "--store", "PLACE"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("place", ["afile/sub", "afile/sub/deeper", "n" * 260])
def test_a_place_that_cannot_be_written_is_said_before_the_work(
    name: str, place: str, config: Path, tmp_path: Path
) -> None:
    """Case 20: all images were painted, then came a traceback."""
    (tmp_path / "afile").write_text("")
    (tmp_path / "set").mkdir()
    places = {"CONFIG": config, "PLACE": tmp_path / place, "SET": tmp_path / "set", "OUT": tmp_path / "out"}
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, [str(places.get(word, word)) for word in COMMANDS[name]])
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert f"{name.rsplit(maxsplit=1)[-1]} {tmp_path / place} cannot be written" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_whose_rights_do_not_tell_that_nothing_can_be_made_there() -> None:
    """Case 20: root may write to /proc, but nobody can make a file in it; so it is on many a network share."""
    with pytest.raises(UserError, match=r"^--output /proc/1/new cannot be written \(.*\): name another place$"):
        check_output(Path("/proc/1/new"), "--output")


def test_a_folder_appears_at_once_and_is_continued(tmp_path: Path) -> None:
    """Case F13."""
    folder = tmp_path / "there/output"
    with pytest.raises(KeyboardInterrupt), folder_written_whole(folder) as unfinished:
        (unfinished / "data").mkdir()
        (unfinished / "data/one").write_text("1")
        (unfinished / "data/.0a1b.tmp").write_text("hal")  # of a process that was killed while it wrote
        raise KeyboardInterrupt
    assert not folder.exists() and unfinished_folder(folder).is_dir()
    with folder_written_whole(folder) as unfinished:
        assert (unfinished / "data/one").read_text() == "1"
        (unfinished / "two").write_text("2")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["data", "data/one", "two"]
    assert [path.name for path in folder.parent.iterdir()] == ["output"]


def test_an_empty_folder_is_taken_and_a_full_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with folder_written_whole(tmp_path / "empty") as unfinished:
        (unfinished / "file").write_text("x")
    assert (tmp_path / "empty/file").read_text() == "x"
    with pytest.raises(OSError, match="not empty"), folder_written_whole(tmp_path / "empty") as unfinished:
        (unfinished / "other").write_text("y")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["file"]


def test_a_folder_without_the_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 20; the tests may run as root, who may write everywhere."""
    monkeypatch.setattr("pipeline.files.os.access", lambda path, kind: False)
    with pytest.raises(UserError, match=f"--output .*{tmp_path} may not be written to"):
        check_output(tmp_path / "new", "--output")
