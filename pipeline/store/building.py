"""Building one artifact: how long that takes over all attempts, its manifest, and what a full disk looks like."""

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.store.manifest import MANIFEST, Moment, everything_below, file_table, provenance, sealed, verify_artifact
from pipeline.store.records import DamagedError, Seconds, StoredRecord, json_object, parse_record, read_file
from pipeline.work.units import WORK

ATTEMPTS = ".attempts.json"


class Attempts(StoredRecord):
    """How long an unfinished artifact has been worked on."""

    started: Moment
    seconds: Seconds
    """How long the attempts took that have ended."""
    running_since: Seconds | None
    """When the attempt that has not ended began, s since 1970."""


class Stage(NamedTuple):
    """A kind of work. `version` is raised by hand, with its reason, when the same config must give other bytes."""

    name: str
    version: int


class Settings(NamedTuple):
    """A config in JSON's values: the whole of it, which manifests record, and what of it a key holds."""

    full: Mapping[str, Any]
    differing: Mapping[str, Any]

    @classmethod
    def whole(cls, config: Mapping[str, Any]) -> Self:
        """The settings of a config all of which a key holds, as it has no defaults."""
        return cls(config, config)


class Wanted(NamedTuple):
    """What the store is asked for, in JSON's values."""

    stage: Stage
    key: str
    config: object
    differing: object
    """What of `config` the key holds."""
    inputs: Mapping[str, str]


def build_in(wanted: Wanted, partial: Path, build: Callable[[Path], None]) -> None:
    """Builds the artifact in `partial`, whose manifest is written last."""
    if _finished(wanted, partial):
        return
    started, seconds = _timed(build, partial)
    if links := [path for path in everything_below(partial) if path.is_symlink()]:
        raise ValueError(f"stage {wanted.stage.name} left a symbolic link in its artifact: {links[0]}")
    content = {
        "stage": wanted.stage.name,
        "version": wanted.stage.version,
        "key": wanted.key,
        "config": wanted.config,
        "differing": wanted.differing,
        "inputs": wanted.inputs,
        "seconds": seconds,
        "started": started,
        "finished": _now(),
        **provenance(),
        "files": {name: entry for name, entry in file_table(partial).items() if not name.startswith(f"{WORK}/")},
    }
    write_json(partial / MANIFEST, sealed(content))
    # Only now, as the digests of the finished units lie in it: killed before this, a build loses none of them.
    shutil.rmtree(partial / WORK, ignore_errors=True)


def _finished(wanted: Wanted, partial: Path) -> bool:
    """Whether the last build was killed just before the rename, and all that it left is whole. What is not is deleted:
    it was never published, so nobody needs it as it is."""
    if not (partial / MANIFEST).exists():
        return False
    shutil.rmtree(partial / WORK, ignore_errors=True)
    try:
        if verify_artifact(partial).key == wanted.key:
            return True
        reason = f"{partial / MANIFEST} belongs to another key"
    except UserError as error:
        reason = str(error).partition(";")[0]
    print(f"flexseg: {reason}: it was not published yet and is built again", file=sys.stderr)
    for path in partial.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return False


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
    attempts = _attempts(path)
    seconds = attempts.seconds
    if attempts.running_since is not None:
        last_write = max((file.stat().st_mtime for file in partial.rglob("*")), default=0.0)
        seconds += max(0.0, last_write - attempts.running_since)
    _write_attempts(path, Attempts(started=attempts.started, seconds=seconds, running_since=time.time()))
    start = time.perf_counter()
    try:
        build(partial)
    except BaseException:
        seconds += time.perf_counter() - start
        with suppress(OSError):  # the disk is full or the store gone: what the build says of that counts
            _write_attempts(path, Attempts(started=attempts.started, seconds=seconds, running_since=None))
        raise
    path.unlink()
    return attempts.started, seconds + time.perf_counter() - start


def _attempts(path: Path) -> Attempts:
    """The record of earlier attempts, a new one where there is none. It says nothing about the files beside it: where
    it is damaged only the times are lost."""
    try:
        return parse_record(Attempts, json_object(read_file(path)))
    except DamagedError as error:
        if path.is_dir():
            raise UserError(f"{path} is a folder, wanted a file of flexseg's: delete it and run again") from error
        if path.exists():
            print(f"flexseg: {path}: {error}; the times of earlier attempts are lost", file=sys.stderr)
    return Attempts(started=_now(), seconds=0.0, running_since=None)


def write_attempts(partial: Path, started: str, seconds: float) -> None:
    """Notes how long others have worked on what is in `partial`."""
    _write_attempts(partial / ATTEMPTS, Attempts(started=started, seconds=seconds, running_since=None))


def _write_attempts(path: Path, attempts: Attempts) -> None:
    write_json(path, attempts.model_dump())
