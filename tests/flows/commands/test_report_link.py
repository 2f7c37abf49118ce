"""The link to the newest report, `machine.output/NAME`: never outside that folder, never over what is the user's."""

from pathlib import Path

import pytest

from flows.commands.summary import linked
from pipeline.files import file_stem


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / "report" / ("0123456789abcdef")
    folder.mkdir(parents=True)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["toy", "../up", "a/b", "/abs", "..", "[/]", "n" * 300, "two words", "%2e%2e"])
def test_any_name_gives_a_link_in_the_output_folder(tmp_path: Path, report: Path, name: str) -> None:
    """Case F06: a config's name was a path, and a link of the user's there was taken away."""
    link = linked(tmp_path / "runs", name, report)
    assert link.parent == tmp_path / "runs" and link.resolve() == report
    assert linked(tmp_path / "runs", name, report) == link and len(names(tmp_path / "runs")) == 1
    assert name != "toy" or link.name == "toy"


@pytest.mark.parametrize("target", ["photographs", "report/mine", "store/world/0123456789abcdef", "nowhere"])
def test_a_link_of_the_users_stays(tmp_path: Path, report: Path, target: str) -> None:
    (tmp_path / "runs").mkdir()
    link = tmp_path / "runs" / "toy"
    link.symlink_to(tmp_path / target)
    assert linked(tmp_path / "runs", "toy", report) == report
    assert link.readlink() == tmp_path / target and names(tmp_path / "runs") == ["toy"]
    assert linked(tmp_path / "runs", str(link), report) != report, "an absolute name is no path either"
    assert link.readlink() == tmp_path / target


def test_the_link_of_an_earlier_report_is_replaced_even_if_that_is_gone(tmp_path: Path, report: Path) -> None:
    (tmp_path / "runs").mkdir()
    link = tmp_path / "runs" / "toy"
    link.symlink_to(tmp_path / "other" / "report" / "fedcba9876543210")
    assert linked(tmp_path / "runs", "toy", report) == link and link.resolve() == report


def test_a_folder_or_file_in_its_place_stays(tmp_path: Path, report: Path) -> None:
    (tmp_path / "runs" / "a folder" / "kept").mkdir(parents=True)
    (tmp_path / "runs" / "file").write_text("mine")
    for name in ("a folder", "file"):
        place = tmp_path / "runs" / file_stem(name)
        if not place.exists():
            (tmp_path / "runs" / name).rename(place)
        assert linked(tmp_path / "runs", name, report) == report
        assert not place.is_symlink()
    assert (tmp_path / "runs" / file_stem("a folder") / "kept").is_dir()
    assert (tmp_path / "runs" / "file").read_text() == "mine" and len(names(tmp_path / "runs")) == 2


def test_an_output_that_cannot_be_written_gives_the_report_itself(tmp_path: Path, report: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    assert linked(tmp_path / "runs", "toy", report) == report
