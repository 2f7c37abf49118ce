"""Places that cannot be written to are one line before the work; what is written appears at once, when it is whole."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.server.pages import command_for_all
from pipeline.config.reading import parse_override
from pipeline.errors import UserError
from pipeline.files import check_new_folder, check_output, folder_written_whole, unfinished_folder
from pipeline.store.artifacts import ArtifactStore, Stage


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


def test_a_place_in_a_finished_artifact_is_refused(tmp_path: Path) -> None:
    """A file that its manifest does not list is damage: the export of an artifact into itself made it unusable."""
    artifact = ArtifactStore(tmp_path).get_or_build(Stage("generated", 1), {}, {}, lambda folder: None)
    for place in (artifact.folder / "export", artifact.folder / "data/deeper"):
        with pytest.raises(UserError, match=f"--to .* lies in the artifact {artifact.folder}, which never changes"):
            check_output(place, "--to")
    check_output(tmp_path / "export", "--to")


@pytest.mark.parametrize("place", ["", ".", "mounted"])
def test_a_folder_that_no_rename_can_replace(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--output ''`, and a volume of a container: known after all the work only, with the advice to make room."""
    monkeypatch.chdir(tmp_path)
    if place == "mounted":
        Path(place).mkdir()
        monkeypatch.setattr(Path, "is_mount", lambda path: path.name == place)
    with pytest.raises(UserError, match=f"--output {tmp_path}.* is in use by the system; name a new folder"):
        check_new_folder(Path(place), "--output")


def test_no_option_is_left_out_of_account(config: Path) -> None:
    done = CliRunner().invoke(app, ["generate", str(config), "--join", "--output", "new"])
    assert done.exit_code == 2 and "leave out --output" in done.stderr


@pytest.mark.parametrize(
    "pairs",
    [
        ["--count", "night=-1"],
        ["--class", "rider=nan"],
        ["--class", "rider=inf"],
        ["--count", "night"],
        ["--count", "night=1e3"],
    ],
)
def test_pairs_of_a_regeneration_are_checked_before_prefect_sees_them(config: Path, pairs: list[str]) -> None:
    """It answered with a traceback."""
    done = CliRunner().invoke(app, ["regenerate", str(config), *pairs])
    assert done.exit_code == 2
    assert done.stderr == f"flexseg: {' '.join(pairs)}: wanted a name and a number from 0 on, for instance night=200\n"
    twice = CliRunner().invoke(app, ["regenerate", str(config), "--count", "night=1", "--count", "night=2"])
    assert twice.stderr == "flexseg: --count names 'night' twice: give it once\n"


def test_the_command_for_all_images_survives_odd_paths() -> None:
    folders = ["/a/b", "/x [1], y/it's: #2"]
    words = shlex.split(command_for_all("my config.yaml", folders))
    assert words[:4] == ["flexseg", "run", "my config.yaml", "--set"]
    assert parse_override(words[4]) == {"data": {"generated": folders}}


@pytest.mark.parametrize("words", [["data", "check", ""], ["data", "check", "toy", "--set", ""]])
def test_an_empty_word_is_shown_as_one(words: list[str]) -> None:
    assert " ''" in CliRunner().invoke(app, words).stderr


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
