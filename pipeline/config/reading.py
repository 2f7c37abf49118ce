"""Config files: which one a name means, its `base`, and overrides, as plain mappings that are not yet validated."""

import os
from pathlib import Path
from typing import Any

from pipeline.config.base import merged
from pipeline.config.yaml_text import MOST_BYTES, FromFile, parse_yaml
from pipeline.errors import UserError, one_line

PRESETS = Path(__file__).parent.parent / "presets"
MOST_BASES = 20


def presets() -> list[str]:
    """Names of the presets that ship with flexseg."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_config(name_or_path: str | Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping of a preset or file with its `base` merged in. `above` are the files that have it as their base."""
    path = _locate(name_or_path)
    if path in above:
        raise UserError(f"config {path}: its 'base' leads back to itself; remove one 'base'")
    if len(above) > MOST_BASES:
        raise UserError(f"config {above[0]}: a chain of more than {MOST_BASES} 'base' files; merge some of them")
    content = parse_yaml(_text(path), f"config {path}", None if path.parent == PRESETS else path.parent)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"config {path}: wanted a mapping of sections (data, training, ...), got {shown(content)}")
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise UserError(f"config {path}: 'base' is {shown(base)}, wanted a preset's name or a YAML file")
    return merged(read_config(base, (*above, path)), content)


def parse_override(override: str) -> dict[str, Any]:
    """The mapping that `section.key=value` stands for."""
    path, equals, text = override.partition("=")
    what = f"--set {_typed(override)}"
    if not equals or not all(path.split(".")):
        raise UserError(f"{what}: wanted section.key=value, for instance --set training.iterations=100")
    value = parse_yaml(text, what)
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def shown(value: object) -> str:
    """A value in an error."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _typed(word: object) -> str:
    """A word of the command line in an error."""
    return one_line(ValueError(str(word) or "''"))


def _locate(name_or_path: str | Path) -> Path:
    preset = PRESETS / f"{name_or_path}.yaml"
    if "/" not in str(name_or_path) and _is_file(preset):
        return preset
    path = Path(os.path.expanduser(name_or_path))  # noqa: PTH111  # unlike Path's it leaves unknown users as they are
    if isinstance(name_or_path, FromFile):
        path = name_or_path.folder / path
    if not _is_file(path):
        raise UserError(
            f"config {_typed(name_or_path)} not found: wanted a YAML file or one of the presets {', '.join(presets())}"
        )
    return path.absolute()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or no name
        return False


def _text(path: Path) -> str:
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(
                f"config {path} has {size:,} bytes, wanted at most {MOST_BYTES:,}: no config needs more, shorten it"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"config {path} cannot be read ({one_line(error)}); give a YAML file or a preset's name"
        ) from error
