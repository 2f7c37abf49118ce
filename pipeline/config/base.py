"""What every section of the config has in common: strictness, bounds of numbers, texts and paths."""

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidatorFunctionWrapHandler, field_validator

from pipeline.config.yaml_text import FromFile

MOST_CHARACTERS = 4096
LARGEST = 2**63 - 1

Count = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[int, Field(gt=0, le=10**9)]
Px = Annotated[int, Field(gt=0, le=2**14)]
"""A side or a width in px (or cells): 16,384 at most, more than any camera's picture that a network is given whole."""
Channels = Annotated[int, Field(gt=0, le=2**16)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Scale = Annotated[float, Field(gt=0, le=16)]
"""A size as a multiple of another."""


def _local(value: object) -> object:
    """A path with `~` expanded, from a file relative to the file's folder. Only texts and paths are touched."""
    if value is None or value == "":
        raise ValueError("empty: wanted a file or folder")
    if not isinstance(value, str | Path):
        return value
    expanded = _home(str(value))
    return str(value.folder / expanded) if isinstance(value, FromFile) else expanded


def _reference(value: object) -> object:
    """A name, or a path as by `_local` where there is something at it: `owner/model` may be both."""
    if not isinstance(value, str):
        return value
    expanded = _home(value)
    if isinstance(value, FromFile) and value:
        beside = value.folder / expanded
        if os.path.exists(beside):  # noqa: PTH110  # unlike Path's it says no to a name that no file can have
            return str(beside)
    return expanded


def _home(text: str) -> str:
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{text!r}: this machine knows no such user: give the whole path") from error


LocalPath = Annotated[Path, BeforeValidator(_local)]
"""A file or folder. One that a config file names is relative to that file's own folder, else to the working folder."""
Reference = Annotated[str, BeforeValidator(_reference)]
"""A file or folder as `LocalPath`, or a name that ships with flexseg or lies on the Hugging Face Hub."""


class Section(BaseModel):
    """A frozen part of the config. Unknown keys are errors: a mistyped option must never be silently ignored.

    Numbers are finite and fit into 64 bits (true and false are none), texts are one line of at most MOST_CHARACTERS
    and hold no control characters, so that they can be hashed, printed and written into JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _can_be_written_down(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        valid = handler(value)
        if isinstance(value, bool) and not isinstance(valid, bool):
            raise ValueError("true or false (or yes, no, on, off): wanted a number")
        _check(valid)
        return valid


def _check(value: object) -> None:
    if isinstance(value, str | Path):
        _check_text(str(value))
    elif isinstance(value, int):
        if abs(value) > LARGEST:
            raise ValueError("a whole number of more than 63 bits: wanted a smaller one")
    elif isinstance(value, float):
        if not abs(value) < float("inf"):
            raise ValueError("not finite: wanted a number")
    elif isinstance(value, Mapping):
        for part in (*value.keys(), *value.values()):
            _check(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check(part)


def _check_text(text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"a text of {len(text):,} characters, wanted at most {MOST_CHARACTERS:,}")
    for place, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise ValueError(
                f"has the character {character!a} at place {place + 1}: wanted one line without control characters"
                " (in YAML a text after | or > ends in a line break: use quotes)"
            )


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`: mappings key by key, everything else replaced. Over a list, a mapping from places ("0" is the
    first) to values replaces or changes these entries alone. Keys are the same where they are spelled the same: that
    of `--set data.source.ids.7=3` is a text, the file's 7 a number."""
    spelled = {str(key): key for key in base}
    own = {spelled.get(str(key), key): value for key, value in top.items()}
    return {**base, **{key: _over(base.get(key), value) for key, value in own.items()}}


def _over(old: object, new: object) -> object:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return merged(old, new)
    places = {str(place) for place in range(len(old))} if isinstance(old, list) else set()
    if isinstance(old, list) and isinstance(new, Mapping) and new and new.keys() <= places:
        return [_over(entry, new[str(place)]) if str(place) in new else entry for place, entry in enumerate(old)]
    return new
