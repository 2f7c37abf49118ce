"""Building one artifact: how long that takes over all attempts, its manifest, and what a full disk looks like."""

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.files import write_json
from pipeline.store.manifest import MANIFEST, file_table, provenance

ATTEMPTS = ".attempts.json"


class Stage(NamedTuple):
    """A kind of work. `version` is raised by hand, with its reason, when the same config must give other bytes."""

    name: str
    version: int


class Wanted(NamedTuple):
    """What the store is asked for, in JSON's values."""

    stage: Stage
    key: str
    config: object
    inputs: Mapping[str, str]


def build_in(wanted: Wanted, partial: Path, build: Callable[[Path], None]) -> None:
    """Builds the artifact in `partial`, whose manifest is written last."""
    if (partial / MANIFEST).exists():  # the last build was killed just before the rename
        return
    started, seconds = _timed(build, partial)
    content = {
        "stage": wanted.stage.name,
        "version": wanted.stage.version,
        "key": wanted.key,
        "config": wanted.config,
        "inputs": wanted.inputs,
        "seconds": seconds,
        "started": started,
        "finished": _now(),
        **provenance(),
        "files": file_table(partial),
    }
    write_json(partial / MANIFEST, content)


def disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is at the bottom of an error, perhaps of one that a worker process put into words."""
    while error is not None:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _timed(build: Callable[[Path], None], partial: Path) -> tuple[str, float]:
    """Runs `build(partial)`; (when its first attempt started, seconds of all attempts together).

    An attempt that was killed could not write down how long it took: it counts up to the last file that it wrote.
    """
    path = partial / ATTEMPTS
    attempts: dict[str, Any] = (
        json.loads(path.read_text()) if path.exists() else {"started": _now(), "seconds": 0.0, "running_since": None}
    )
    if attempts["running_since"] is not None:
        last_write = max((file.stat().st_mtime for file in partial.rglob("*")), default=0.0)
        attempts["seconds"] += max(0.0, last_write - attempts["running_since"])
    write_json(path, {**attempts, "running_since": time.time()})
    start = time.perf_counter()
    try:
        build(partial)
    except BaseException:
        seconds = attempts["seconds"] + time.perf_counter() - start
        write_json(path, {**attempts, "seconds": seconds, "running_since": None})
        raise
    path.unlink()
    return attempts["started"], attempts["seconds"] + time.perf_counter() - start
