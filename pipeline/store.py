"""The artifact store: the one truth about what is done.

An artifact is a folder whose `manifest.json` was written last; it appears under its name by one rename, so it is
either finished or not there. Its key is the sha256 of (stage, version, config, keys of the inputs): whoever asks for
the same thing gets the same folder. Layout:

    <root>/<stage>/<first 16 digits of the key>/            finished, `manifest.json` in it
    <root>/<stage>/<first 16 digits of the key>.partial/    being built, or interrupted: the next build resumes in it
    <root>/<stage>/<first 16 digits of the key>.lock        held (flock) by the process that builds; dies with it
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from pipeline.errors import UserError
from pipeline.manifest import (
    MANIFEST,
    canonical_digest,
    canonical_json,
    file_table,
    fsync_folder,
    provenance,
    read_manifest,
    verify_files,
    write_json,
)

KEY_DIGITS = 16
ATTEMPTS = ".attempts.json"


class Stage(NamedTuple):
    """A kind of work. `version` is raised by hand, with its reason, when the same config must give other bytes."""

    name: str
    version: int


@dataclass(frozen=True)
class Artifact:
    """The finished, verified result of a stage: `folder` holds its files, `manifest` says where they come from."""

    kind: str
    key: str
    folder: Path
    manifest: Mapping[str, Any]


Event = Literal["waiting", "building", "built", "cached"]
Config = BaseModel | Mapping[str, Any]
OnEvent = Callable[[Event, Stage, Artifact | None], None]


class ArtifactStore:
    """Finished artifacts under `root`, each built once however many processes ask for it.

    `on_event(event, stage, artifact)` hears what `get_or_build` does: `cached` or `built` with the artifact; before
    that perhaps `building`, or `waiting` for another process that builds the same, with None.
    """

    def __init__(self, root: Path, on_event: OnEvent | None = None) -> None:
        self.root = root
        self._on_event = on_event or (lambda event, stage, artifact: None)
        self._verified: set[Path] = set()

    def key(self, stage: Stage, config: Config, inputs: Mapping[str, str]) -> str:
        """Hex sha256 over the canonical JSON of stage, version, config and input keys."""
        return canonical_digest([*stage, _plain(config), dict(inputs)])

    def find(self, stage: Stage, config: Config, inputs: Mapping[str, str]) -> Artifact | None:
        """The finished artifact, or None. Raises UserError if it is there but damaged."""
        key = self.key(stage, config, inputs)
        folder = self._folder(stage, key)
        return self._open(folder, key) if folder.exists() else None

    def get_or_build(
        self, stage: Stage, config: Config, inputs: Mapping[str, str], build: Callable[[Path], None]
    ) -> Artifact:
        """The finished artifact; if there is none, `build(folder)` makes it first.

        An interrupted `build` finds what it had written in the same folder when it is called again. Of two processes
        that ask at once one builds, the other waits and takes the result.
        """
        key = self.key(stage, config, inputs)
        folder = self._folder(stage, key)
        event: Event = "cached"
        if not folder.exists():
            with self._locked(stage, folder):
                if not folder.exists():
                    self._on_event("building", stage, None)
                    self._build(stage, key, _plain(config), inputs, build)
                    event = "built"
        artifact = self._open(folder, key)
        self._on_event(event, stage, artifact)
        return artifact

    def partial(self, stage: Stage, config: Config, inputs: Mapping[str, str]) -> Path:
        """The folder in which the artifact is being built, or was when its build broke off. It need not exist."""
        return _partial(self._folder(stage, self.key(stage, config, inputs)))

    def open(self, key: str) -> Artifact:
        """The finished artifact whose key starts with `key`. UserError if none or several do."""
        found = [
            folder
            for folder in sorted(self.root.glob(f"*/{key[:KEY_DIGITS]}*"))
            if folder.is_dir() and not folder.suffix and read_manifest(folder)["key"].startswith(key)
        ]
        if len(found) != 1:
            what = f"{len(found)} artifacts' keys start" if found else "no artifact's key starts"
            raise UserError(
                f"{what} with {key!r} in the store {self.root}; give more digits of a key, or set machine.store"
            )
        return self._open(found[0], read_manifest(found[0])["key"])

    def _folder(self, stage: Stage, key: str) -> Path:
        return self.root.absolute() / stage.name / key[:KEY_DIGITS]

    def _open(self, folder: Path, key: str) -> Artifact:
        manifest = read_manifest(folder)
        if manifest.get("key") != key:
            raise UserError(
                f"{folder} belongs to another key ({manifest.get('key')}); delete that folder and run again"
            )
        if folder not in self._verified:
            verify_files(folder, manifest)
            self._verified.add(folder)
        return Artifact(manifest["stage"], key, folder, manifest)

    def _build(
        self, stage: Stage, key: str, config: object, inputs: Mapping[str, str], build: Callable[[Path], None]
    ) -> None:
        folder = self._folder(stage, key)
        partial = _partial(folder)
        partial.mkdir(exist_ok=True)
        if not (partial / MANIFEST).exists():  # it does if the last build was killed just before the rename
            started, seconds = _timed(build, partial)
            content = {
                "stage": stage.name,
                "version": stage.version,
                "key": key,
                "config": config,
                "inputs": dict(inputs),
                "seconds": seconds,
                "started": started,
                "finished": _now(),
                **provenance(),
                "files": file_table(partial),
            }
            write_json(partial / MANIFEST, content)
            self._verified.add(folder)
        os.rename(partial, folder)
        fsync_folder(folder.parent)

    @contextmanager
    def _locked(self, stage: Stage, folder: Path) -> Iterator[None]:
        """Holds the artifact's lock. The kernel frees it when its owner dies, however it dies."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.with_name(folder.name + ".lock").open("a")
        except OSError as error:
            way_out = "set machine.store to a folder that you may write to"
            raise UserError(f"cannot write to the store {self.root}: {error.strerror}; {way_out}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._on_event("waiting", stage, None)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _partial(folder: Path) -> Path:
    return folder.with_name(folder.name + ".partial")


def _plain(config: Config) -> object:
    """The config as JSON values."""
    return config.model_dump(mode="json") if isinstance(config, BaseModel) else json.loads(canonical_json(config))


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
