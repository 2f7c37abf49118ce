"""What an interrupted training continues from: tensors and plain values, sealed. Nothing is ever unpickled.

What is kept is a safetensors file and, written after it, a JSON file that names it with its sha256 and bears a digest
of its own. So a file that was damaged, exchanged or planted is seen before anything of it is used, and a process that
dies leaves what was kept before.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline.errors import UserError, one_line
from pipeline.files import file_sha256, inside, write_json, written_whole
from pipeline.store.manifest import canonical_digest
from pipeline.store.records import json_object, read_file

LAYOUT = 1
"""Raised when what is kept changes: what has another layout is not taken up."""


class Saved(NamedTuple):
    """Tensors, on the CPU, and the plain values that belong to them."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def keep(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write `tensors` beside `path` and then `path` itself (JSON), in the place of what was kept there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{path.stem}-{turn}.safetensors" for turn in "ab"]  # the one that is not in use is written
    new, old = reversed(names) if _named(path) == names[0] else names
    with written_whole(path.with_name(new)) as unfinished:
        safetensors.torch.save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, unfinished)
        digest = file_sha256(unfinished)
    content = {"layout": LAYOUT, "tensors": new, "sha256": digest, "values": dict(values)}
    write_json(path, {**content, "seal": canonical_digest(content)})
    path.with_name(old).unlink(missing_ok=True)


def kept(path: Path, what: str) -> Saved | None:
    """What was kept at `path`; None where nothing was, or, with a line on stderr, where it is damaged.

    `what` is named in that line as what is begun again.
    """
    if not path.exists():
        return None
    try:
        content = json_object(read_file(path))
        seal = content.pop("seal")
        if content["layout"] != LAYOUT:
            raise UserError(f"it has layout {content['layout']}, this version of flexseg writes {LAYOUT}")
        file = inside(path.parent, content["tensors"])
        if not file.is_file() or seal != canonical_digest(content) or file_sha256(file) != content["sha256"]:
            raise UserError("its digest does not hold")
        return Saved(safetensors.torch.load_file(file), dict(content["values"]))
    except (UserError, OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
        begin_again(path, what, one_line(error))
        return None


def begin_again(path: Path, what: str, reason: str) -> None:
    """Say that what lies at `path` is not used."""
    print(f"flexseg: {path} is damaged or not ours ({reason}): {what} begins again", file=sys.stderr)


def discard(path: Path) -> None:
    """Remove what was kept at `path`."""
    for file in (path, *path.parent.glob(f"{path.stem}-[ab].safetensors")):
        file.unlink(missing_ok=True)


def _named(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["tensors"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
