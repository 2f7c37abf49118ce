"""Files below a folder, and the glob patterns that choose among them.

Hidden files and folders are no data. Links to folders are followed, but never round in a circle. Names are used as they
are: the folder itself is no pattern, whatever characters its name has.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.errors import UserError, one_line

_WILDCARD = re.compile(r"(\*\*/|\*|\?|\[!?\]?[^\]]*\])")


def files_below(folder: Path, most_folders: int | None = None) -> Iterator[str]:
    """Relative paths, with `/`, of the files below `folder`, sorted within each of its folders.

    most_folders: how many folders a path may have in front of its name; None for any number.
    """
    above = tuple(_identity(parent) for parent in folder.resolve().parents)
    yield from _walk(folder, "", most_folders, above)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _walk(folder: Path, below: str, most: int | None, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        here = _identity(folder)
        with os.scandir(folder) as found:  # which knows folders from files without asking for each
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({one_line(error)}); give yourself access to it") from error
    if here in above:
        return  # a link led back to a folder that we are in
    for entry in entries:
        if _is(entry, os.DirEntry.is_dir):
            if most is None or most > 0:
                deeper = None if most is None else most - 1
                yield from _walk(folder / entry.name, f"{below}{entry.name}/", deeper, (*above, here))
        elif entry.is_symlink() or _is(entry, os.DirEntry.is_file):  # of a link to nowhere its reader will say so
            yield below + entry.name


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link to itself
        return False


def check_name(folder: Path, name: str) -> None:
    """UserError where the relative path `name` is no UTF-8 or holds control characters: it could neither be printed nor
    written down."""
    if not name.isprintable():
        raise UserError(f"{folder} holds {name!r}, a name with characters that cannot be printed: rename it")


class Match(NamedTuple):
    """A file that a pattern chose, and what of its path the pattern leaves open: its wildcards' parts joined by `/`,
    without the file's ending."""

    path: Path
    name: str


def matches(root: Path, pattern: str) -> list[Match]:
    """The files below `root` that fit a glob pattern relative to it, sorted by path.

    `**` stands for any number of folders, `*` and `?` for characters of a name, `[...]` for one of several. The letters
    behind the last dot fit without regard to case: `*.jpg` also finds `1.JPG`. UserError for a pattern that is empty,
    absolute or leads out of `root`.
    """
    parts = PurePosixPath(pattern).parts
    if not parts or pattern.startswith("/") or ".." in parts:
        raise UserError(f"pattern {pattern!r} must be relative to 'root' and stay below it")
    literal = 0
    while literal < len(parts) - 1 and not _WILDCARD.search(f"{parts[literal]}/"):
        literal += 1
    top, open_parts = root.joinpath(*parts[:literal]), parts[literal:]
    if not top.is_dir():
        return []
    wanted = _expression(open_parts)
    depth = None if "**" in open_parts else len(open_parts) - 1
    found = [(name, match) for name in files_below(top, depth) if (match := wanted.fullmatch(name))]
    for name, _ in found:
        check_name(top, name)
    return [Match(top / name, _open(name, match)) for name, match in found]


def _open(name: str, match: re.Match[str]) -> str:
    """What the wildcards stand for; all but the ending if the pattern has none."""
    folders, slash, file = name.rpartition("/")
    end = len(folders) + len(slash) + (file.rfind(".") if "." in file else len(file))
    spans = [match.span(group) for group in range(1, match.re.groups + 1)] or [(0, end)]
    parts = [name[start : min(stop, end)].strip("/") for start, stop in spans]
    return "/".join(part for part in parts if part)


def _expression(parts: tuple[str, ...]) -> re.Pattern[str]:
    """The pattern as a regular expression with a group for each wildcard."""
    pattern = "/".join(parts)
    if parts[-1] == "**":
        pattern += "/*"
    body, dot, ending = pattern.rpartition(".")
    if "/" in ending or not dot:
        body, dot, ending = pattern, "", ""
    return re.compile(f"{_translated(body)}{re.escape(dot)}(?i:{_translated(ending)})", re.DOTALL)


def _translated(pattern: str) -> str:
    return "".join(_TRANSLATIONS.get(part) or _characters(part) for part in _WILDCARD.split(pattern))


_TRANSLATIONS = {"**/": r"((?:[^/]+/)*)", "*": r"([^/]*)", "?": r"([^/])"}


def _characters(part: str) -> str:
    if not _WILDCARD.fullmatch(part):
        return re.escape(part)
    negated = "^/" if part[1] == "!" else ""
    inside = part[2 if negated else 1 : -1].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
    return f"([{negated}{inside.replace(']', chr(92) + ']')}])"
