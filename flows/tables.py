"""Tables for the terminal and for Prefect's pages: columns that know their cells, so that no cell can stand under
another column's heading, and names from outside that are shown as they are."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

T = TypeVar("T")

UNBOUNDED = 10_000
"""Characters in a line where there is no terminal: logs and pipes get every table at its full width."""


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column of a table over items: its heading, and how the text of its cell is found in an item."""

    heading: str
    cell: Callable[[T], str]
    left: bool = False
    """Whether it is set flush left, as names are; numbers stand flush right."""


def table(title: str, columns: Sequence[Column[T]], *groups: Iterable[T]) -> Table:
    """One row per item; groups of rows are divided by a line. Nothing in titles, headings or cells is read as markup.

    Where it is wider than the terminal, cells are folded, never cut.
    """
    drawn = Table(title=Text(title) if title else None)
    for column in columns:
        drawn.add_column(Text(column.heading), justify="left" if column.left else "right", overflow="fold")
    for group in groups:
        drawn.add_section()
        for item in group:
            drawn.add_row(*(Text(column.cell(item)) for column in columns))
    return drawn


def named_rows(columns: Sequence[Column[T]], items: Iterable[T]) -> list[dict[str, str]]:
    """The same rows as mappings from heading to cell, as Prefect's pages want them.

    ValueError where two columns have one heading: one of them would be lost.
    """
    headings = [column.heading for column in columns]
    if len(set(headings)) < len(headings):
        raise ValueError(f"two columns of a table have one heading: {', '.join(headings)}")
    return [{column.heading: column.cell(item) for column in columns} for item in items]


def console() -> Console:
    """Where the commands print: the terminal at its width, anything else (a log, a pipe) without a limit.

    Texts are printed as they are: brackets and colons in the names of others are neither markup nor emoji.
    """
    width = None if sys.stdout.isatty() else UNBOUNDED
    return Console(width=width, markup=False, emoji=False, highlight=False)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def points(difference: float | None) -> str:
    """A difference of shares in points, with its sign; a dash where there is none."""
    return "-" if difference is None or math.isnan(difference) else f"{100 * difference:+.2f}"


def span(low: float | None, high: float | None, show: Callable[[float | None], str] = percent) -> str:
    """An interval; a dash where there is none."""
    return "-" if "-" in (first := show(low), last := show(high)) else f"{first} to {last}"
