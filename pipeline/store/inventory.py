"""What is in a store: its artifacts here and in the remote, finished or not, who builds them, and which are needed."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store.lease import newest
from pipeline.store.manifest import MANIFEST, read_manifest
from pipeline.store.remote import Remote
from pipeline.store.shared_artifact import SharedArtifact, is_part


@dataclass(frozen=True)
class Entry:
    """An artifact in one place. `manifest` is None while it is unfinished; then `parts` files of it are there.
    `owner` is who builds it, empty if nobody does; of a remote lock nobody knows yet whether its owner lives."""

    stage: str
    digits: str
    place: Path | Remote
    manifest: dict[str, Any] | None
    size: int
    parts: int = 0
    owner: str = ""

    @property
    def name(self) -> str:
        """`stage/digits`."""
        return f"{self.stage}/{self.digits}"

    @property
    def where(self) -> str:
        """`local` or `remote`."""
        return "remote" if isinstance(self.place, Remote) else "local"


def local_entries(root: Path) -> Iterator[Entry]:
    """The artifacts in a local store, also unfinished ones."""
    for folder in sorted(root.glob("*/*")):
        if not folder.is_dir() or folder.suffix not in {"", ".partial"}:
            continue
        unfinished = folder.suffix == ".partial"
        if not unfinished and not (folder / MANIFEST).is_file():
            continue
        files = [path for path in folder.rglob("*") if path.is_file()]
        yield Entry(
            folder.parent.name,
            folder.stem,
            root,
            None if unfinished else read_manifest(folder),
            sum(path.stat().st_size for path in files),
            sum(is_part(path.relative_to(folder)) for path in files) if unfinished else 0,
            "a process here" if _held(folder.with_name(f"{folder.stem}.lock")) else "",
        )


def remote_entries(remote: Remote) -> Iterator[Entry]:
    """The artifacts in a remote store, also unfinished ones."""
    sizes: dict[str, int] = {}
    published = set()
    for path, size in remote.sizes().items():
        stage, _, rest = path.partition("/")
        digits, _, what = rest.partition("/")
        if what:
            sizes[f"{stage}/{digits}"] = sizes.get(f"{stage}/{digits}", 0) + size
        if what == MANIFEST:
            published.add(f"{stage}/{digits}")
    for name, size in sizes.items():
        stage, _, digits = name.partition("/")
        shared = SharedArtifact(remote, name, digits)
        if name in published:
            yield Entry(stage, digits, remote, shared.manifest(), size)
        else:
            lock = newest(shared)
            nothing: dict[str, Any] = {"released": True, "parts": {}}
            content = lock.content if lock else nothing
            owner = "" if content["released"] else str(content["owner"])
            yield Entry(stage, digits, remote, None, size, len(content["parts"]), owner)


def abandoned(entries: Iterable[Entry], seconds: float) -> set[str]:
    """Names of unfinished remote artifacts whose owners do not renew their locks: they are looked at for `seconds`."""

    def looks() -> dict[str, str]:
        return {
            entry.name: json.dumps(newest(SharedArtifact(entry.place, entry.name, entry.digits)))
            for entry in watched
            if isinstance(entry.place, Remote)
        }

    watched = [entry for entry in entries if entry.where == "remote" and entry.owner]
    if not watched:
        return set()
    before = looks()
    time.sleep(seconds)
    after = looks()
    return {name for name, lock in before.items() if after[name] == lock}


def needed_by(entries: Sequence[Entry], keep: Iterable[Entry]) -> set[str]:
    """Names of the artifacts in `keep` and of all that they were made from."""
    by_key = {entry.manifest["key"]: entry for entry in entries if entry.manifest}
    found: set[str] = set()
    left = list(keep)
    while left:
        entry = left.pop()
        if entry.name not in found:
            found.add(entry.name)
            keys = (entry.manifest or {"inputs": {}})["inputs"].values()
            left += [by_key[key] for key in keys if key in by_key]
    return found


def runs_named(entries: Sequence[Entry], names: Collection[str]) -> list[Entry]:
    """The reports of runs of these names, and artifacts whose keys start so. UserError for a name without any."""
    kept = []
    for name in names:
        found = [
            entry
            for entry in entries
            if entry.manifest
            and (
                (entry.stage == "report" and entry.manifest["config"].get("name") == name)
                or (len(name) >= 8 and entry.manifest["key"].startswith(name))
            )
        ]
        if not found:
            raise UserError(f"no finished run {name!r} in the store: give a config's name or 8 digits of a key")
        kept += found
    return kept


def age_in_days(entry: Entry) -> float:
    """Since it was finished; 0 for what is unfinished."""
    if not entry.manifest:
        return 0.0
    return (datetime.now(UTC) - datetime.fromisoformat(entry.manifest["finished"])).total_seconds() / 86400


def delete(entry: Entry) -> bool:
    """Deletes it; False if somebody builds it here just now."""
    if isinstance(entry.place, Remote):
        SharedArtifact(entry.place, entry.name, entry.digits).delete()
        return True
    folder = entry.place / entry.stage / (entry.digits if entry.manifest else f"{entry.digits}.partial")
    with _lock(folder.with_name(f"{entry.digits}.lock")) as mine:
        if mine and folder.exists():
            gone = folder.with_name(f"{entry.digits}.deleted")
            shutil.rmtree(gone, ignore_errors=True)
            os.rename(folder, gone)  # from here on it is not there, however this ends
            shutil.rmtree(gone)
        return mine


def _held(path: Path) -> bool:
    if not path.exists():
        return False
    with _lock(path) as mine:
        return not mine


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
