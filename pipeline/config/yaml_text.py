"""YAML of configs: no key twice, nothing that grows beyond what a person writes, and errors that name the line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError, one_line

MOST_BYTES = 256_000
MOST_DEPTH = 40
MOST_VALUES = 10_000
"""So many values a whole text may have, with what its anchors stand for counted wherever they are used."""


class FromFile(str):
    """A text that stands in a config file of `folder`: paths are relative to it."""

    folder: Path

    @classmethod
    def of(cls, text: str, folder: Path) -> "FromFile":
        """The text with its folder."""
        made = cls(text)
        made.folder = folder
        return made


def parse_yaml(text: str, what: str, folder: Path | None = None) -> Any:
    """The value of a YAML text. `what` is what to call it in errors; with `folder` its texts are `FromFile`.

    UserError, one line with the line's number: no YAML, a key that stands twice in one mapping, more than MOST_BYTES,
    MOST_DEPTH or MOST_VALUES, an anchor that holds itself. Dates are texts, as no option is a date.
    """
    if (size := len(text.encode("utf-8", "surrogatepass"))) > MOST_BYTES:
        raise UserError(f"{what} has {size:,} bytes, wanted at most {MOST_BYTES:,}: no config needs more, shorten it")
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not YAML: {one_line(error)}; correct that line") from error
    loader.what, loader.folder = what, folder
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not YAML: {one_line(error)}; correct that line") from error
    except (ValueError, OverflowError) as error:  # numbers of thousands of digits
        raise UserError(f"{what} holds a value that cannot be read ({one_line(error)}): correct it") from error
    except RecursionError as error:
        raise UserError(f"{what} is nested more than {MOST_DEPTH} deep: flatten it") from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of two equal keys and any depth, made strict."""

    what = ""
    folder: Path | None = None

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._written = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # by node: values in it, levels in it

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; counts what is in it, also by anchors."""
        if self.check_event(yaml.AliasEvent):
            line = self._line()
            known = super().compose_node(parent, index)
            if id(known) not in self._sizes:  # it is not finished yet
                raise UserError(f"{self.what}, line {line}: an anchor holds itself; write the value out")
            return known
        line = self._line()
        self._written += 1
        if self._written > MOST_VALUES:
            raise UserError(
                f"{self.what}, line {line}: more than {MOST_VALUES:,} values; no config needs more, shorten it"
            )
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise UserError(f"{self.what}, line {line}: nested more than {MOST_DEPTH} deep; flatten it")
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        self._count(node, line)
        return node

    def _line(self) -> int:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it bare
        return int(event.start_mark.line) + 1

    def _count(self, node: yaml.Node, line: int) -> None:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = list(node.value)
        elif isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        sizes = [self._sizes[id(part)] for part in inner]
        values, levels = 1 + sum(size for size, _ in sizes), 1 + max((level for _, level in sizes), default=0)
        if values > MOST_VALUES or levels > MOST_DEPTH:
            raise UserError(
                f"{self.what}, line {line}: {values:,} values in {levels} levels, wanted at most {MOST_VALUES:,} in"
                f" {MOST_DEPTH}; shorten it"
            )
        self._sizes[id(node)] = (values, levels)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping; no key may stand in it twice."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{self.what}, line {line}: a list or mapping is no key; give a word")
            name: Any = "<<" if key.tag == "tag:yaml.org,2002:merge" else self.construct_object(key)
            spellings = {name, str(name)}  # 1 and 1.0 are the same key, and 7 and "7" the same id
            if twice := spellings & lines.keys():
                raise UserError(
                    f"{self.what}, line {line}: the key {one_line(ValueError(str(name)), 80)!r} stands in line"
                    f" {lines[twice.pop()]} already; keep one of them"
                )
            lines.update(dict.fromkeys(spellings, line))
        return node

    def construct_text(self, node: Any) -> str:
        """A text, with the folder of its file."""
        text = str(self.construct_scalar(node))
        return text if self.folder is None else FromFile.of(text, self.folder)


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
