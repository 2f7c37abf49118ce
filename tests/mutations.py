"""Files and JSON trees that were changed at random, as disks, networks and strangers change them."""

import copy
import os
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pipeline.errors import UserError

SEARCH = int(os.environ.get("FLEXSEG_SEARCH", "0"))
"""How many times as many inputs are tried, other ones each time; without it the same few in every run."""


def tried(examples: int) -> settings:
    """So many inputs; none of them may take 10 s."""
    function_scoped = HealthCheck.function_scoped_fixture
    return settings(
        max_examples=examples * max(1, SEARCH),
        derandomize=not SEARCH,
        database=None,
        deadline=10_000,
        suppress_health_check=[function_scoped, HealthCheck.too_slow],
    )


def is_one_line_about(error: UserError, place: object) -> None:
    """Asserts that the message is what a user is shown: short, one line, with the name of the file."""
    text = str(error)
    assert text.isprintable() and len(text) < 2000, text
    assert str(place) in text, text


def refusal(act: Callable[[], object], place: object) -> str | None:
    """The line in which `act` ends, see `is_one_line_about`; None where it ends well."""
    try:
        act()
    except UserError as error:
        is_one_line_about(error, place)
        return str(error)
    return None


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 40)
    | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**20, 1e308, float("nan"), float("inf"), 0.5])
    | st.text(max_size=5)
    | st.sampled_from(["../x", "/x", "a/b", "", "\0", "\ud800", "x" * 300, "[b]", "$HOME", "~", "1", "nan"])
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
"""What JSON and YAML can hold, and values that they cannot."""


class Edit(NamedTuple):
    """A change of some bytes: where (counted from the front, and round again), of how many, to what."""

    kind: str
    place: int
    length: int
    new: bytes


EDITS = st.builds(
    Edit,
    st.sampled_from(["bit", "byte", "number", "lost", "doubled", "moved", "new", "cut"]),
    st.integers(0, 2**20) | st.integers(0, 64),
    st.integers(1, 16),
    st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff\xff\xff\x7f", b"\xff" * 4, b"\0\0\0\x80", bytes(4)]),
)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes after up to four changes: a bit, a byte, a number's worth of them, a part that is lost, doubled, moved
    or new, an end that is missing."""
    return st.lists(EDITS, min_size=1, max_size=4).map(lambda edits: reduce(_edited, edits, content))


def _edited(content: bytes, edit: Edit) -> bytes:
    at = edit.place % (len(content) + 1)
    front, part, rest = content[:at], content[at : at + edit.length], content[at + edit.length :]
    first = content[at] if at < len(content) else 0
    return {
        "bit": front + bytes([first ^ 1 << edit.length % 8]) + content[at + 1 :],
        "byte": front + edit.new[:1] + content[at + 1 :],
        "number": front + edit.new + content[at + len(edit.new) :],
        "lost": front + rest,
        "doubled": front + part + part + rest,
        "moved": front + rest + part,
        "new": front + edit.new + part + rest,
        "cut": front,
    }[edit.kind]


class Change(NamedTuple):
    """A change of a tree: of which of its values (round again), to what, under which name."""

    kind: str
    place: int
    value: Any
    name: str | None


CHANGES = st.builds(
    Change,
    st.sampled_from(["value", "value", "value", "lost", "named", "new"]),
    st.integers(0, 10_000),
    TREES,
    st.none() | st.text(max_size=6),
)


def changed(tree: Any) -> st.SearchStrategy[Any]:
    """The tree after up to two changes: a value that is another one, or lost; a name that is another one, perhaps one
    of another place; a new one."""
    return st.lists(CHANGES, min_size=1, max_size=2).map(lambda changes: reduce(_changed, changes, copy.deepcopy(tree)))


def _changed(tree: Any, change: Change) -> Any:
    places = list(_places(tree))
    if not places:
        return change.value
    holder, key = places[change.place % len(places)]
    name = str(places[change.place // 7 % len(places)][1]) if change.name is None else change.name
    if change.kind == "value":
        holder[key] = change.value
    elif change.kind == "lost":
        del holder[key]
    elif isinstance(holder, dict):
        holder[name] = holder.pop(key) if change.kind == "named" else change.value
    else:
        holder.append(change.value)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(mapping or list, key or index) of everything in a tree."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield tree, key
        yield from _places(value)
