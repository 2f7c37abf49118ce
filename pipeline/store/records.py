"""Small JSON files beside the data (manifests, locks, attempts, registered models): each kind is read by one model.

Whoever can write to a shared store can write anything into them, and disks lose bits: so a record is checked whole
before anything of it is used, and what is wrong with it is one line.
"""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pipeline.errors import one_line
from pipeline.files import is_plain_path

MOST_BYTES = 1 << 30
"""A record that is larger is not read (ours): a million files' manifest has an eighth of it."""


class DamagedError(ValueError):
    """A record that cannot be used; one line says why. Whoever knows where it was read says how to fix it."""


class StoredRecord(BaseModel):
    """A record's fields: no others, of just these types, never changed."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


R = TypeVar("R", bound=StoredRecord)


def _plain_path(name: str) -> str:
    if not is_plain_path(name):
        raise ValueError("wanted a plain relative path")
    return name


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PlainPath = Annotated[str, AfterValidator(_plain_path)]
Seconds = Annotated[float, Field(ge=0)]


class StoredFile(StoredRecord):
    """What a file's content must be."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


FileTable = dict[PlainPath, StoredFile]
"""`{relative path: content}` of all files of a folder."""


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. DamagedError if it is none."""
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"it is no JSON ({one_line(error, 80)})") from error
    if not isinstance(content, dict):
        raise DamagedError(f"it holds a {type(content).__name__}, wanted an object")
    return content


def parse_record(kind: type[R], content: dict[str, Any]) -> R:
    """The record with this content. DamagedError names the first field that is wrong."""
    try:
        return kind.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise DamagedError(_first(error)) from error


def read_file(path: Path) -> bytes:
    """A record's bytes. DamagedError where there is no such file, or one that is no record by its size or kind."""
    try:
        if not path.is_file():
            raise DamagedError("it is no file" if path.exists() else "it is missing")
        if path.stat().st_size > MOST_BYTES:
            raise DamagedError(f"it has {path.stat().st_size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DamagedError(f"it cannot be read ({one_line(error, 120)})") from error


def _first(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    got = "" if first["type"] == "missing" else f", not {repr(first['input'])[:60]}"
    return one_line(ValueError(f"{place[:80]}: {first['msg']}{got}"), 200)
