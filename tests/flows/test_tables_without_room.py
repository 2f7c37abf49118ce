"""Without a terminal no table is cut (case 18); on a narrow one cells are folded."""

import io
import sys

import pytest
from rich.console import Console

from flows import tables
from flows.score_tables import methods_table
from tests.made_reports import ODD, made_report


@pytest.mark.parametrize("width", ["40", "80", None])
def test_without_a_terminal_nothing_is_cut_or_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: str | None
) -> None:
    """Case 18: a log had its tables cut to 80 columns, with two columns called "bound" and "inter"."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    if width is not None:
        monkeypatch.setenv("COLUMNS", width)
    report = made_report("own-photographs-of-the-winter", "a data set with a long name", ODD)
    tables.console().print(methods_table(report))
    tables.console().print(f"Report: {'x' * 300} {ODD}")
    printed = capsys.readouterr().out
    for name in (*report.places, *(method.name for method in report.methods)):
        assert name in printed
    assert "…" not in printed and f"{'x' * 300} {ODD}\n" in printed


def test_on_a_narrow_terminal_cells_are_folded_and_not_cut() -> None:
    report = made_report("own-photographs-of-the-winter", "snow")
    console = Console(width=44, file=io.StringIO(), record=True, color_system=None)
    console.print(methods_table(report))
    text = console.export_text()
    letters = "".join(
        line.strip("┃│").replace("┃", "│").split("│")[1].strip() for line in text.splitlines() if "┃" in line
    )
    assert "…" not in text and letters == "own-photographs-of-the-winter"
