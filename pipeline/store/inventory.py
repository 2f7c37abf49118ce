"""What is in a store: its artifacts here and in the remote, finished or not, who builds them, and which are needed."""

import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import UserError, one_line
from pipeline.store.locks import Term, newest
from pipeline.store.manifest import MANIFEST, Manifest, everything_below, read_manifest
from pipeline.store.places import check_root, is_digits
from pipeline.store.remote import Remote
from pipeline.store.shared_artifact import SharedArtifact, is_part

LABELS, PLAN, SEGMENTER = "labels", "plan", "segmenter"
"""Stages whose artifacts are read while those of others are built, and the stage that reads class statistics."""


@dataclass(frozen=True)
class Entry:
    """An artifact in one place."""

    stage: str
    digits: str
    place: Path | Remote
    manifest: Manifest | None
    """None while it is unfinished, or where it is damaged."""
    size: int
    """Bytes of all its files."""
    parts: int = 0
    """Files of it that are there, while it is unfinished."""
    owner: str = ""
    """Who builds it, empty if nobody does; of a remote lock nobody knows yet whether its owner lives."""
    damage: str = ""
    """Why its manifest or lock cannot be used, in one line."""

    @property
    def name(self) -> str:
        """`stage/digits`."""
        return f"{self.stage}/{self.digits}"

    @property
    def where(self) -> str:
        """`local` or `remote`."""
        return "remote" if isinstance(self.place, Remote) else "local"


def local_entries(root: Path) -> Iterator[Entry]:
    """The artifacts in a local store, also unfinished ones. Nothing is written. UserError if `root` can be no store."""
    check_root(root)
    for folder in sorted(root.glob("*/*")):
        unfinished = folder.suffix == ".partial"
        if not is_digits(folder.stem if unfinished else folder.name) or not folder.is_dir():
            continue
        manifest, damage = None, ""
        if not unfinished:
            try:
                manifest = _at_its_place(read_manifest(folder), folder)
            except UserError as error:
                damage = str(error)
        files = [path for path in everything_below(folder) if not path.is_symlink()]
        yield Entry(
            folder.parent.name,
            folder.stem,
            root,
            manifest,
            sum(path.stat().st_size for path in files),
            sum(is_part(path.relative_to(folder)) for path in files) if unfinished else 0,
            "a process here" if _held(folder.with_name(f"{folder.stem}.lock")) else "",
            damage,
        )


def manifests(root: Path, stage: str) -> dict[Path, Manifest]:
    """The manifests of the finished artifacts of one stage in a local store, by their folders. UserError for a damaged
    one."""
    folders = sorted(file.parent for file in root.glob(f"{stage}/*/{MANIFEST}") if is_digits(file.parent.name))
    return {folder: read_manifest(folder) for folder in folders}


def _at_its_place(manifest: Manifest, folder: Path) -> Manifest:
    if manifest.stage != folder.parent.name or not manifest.key.startswith(folder.name):
        raise UserError(
            f"{folder} belongs to another key ({manifest.stage} {manifest.key}); delete that folder and run again"
        )
    return manifest


def remote_entries(remote: Remote) -> Iterator[Entry]:
    """The artifacts in a remote store, also unfinished ones."""
    sizes: dict[str, int] = {}
    published = set()
    for path, size in remote.sizes().items():
        stage, _, rest = path.partition("/")
        digits, _, what = rest.partition("/")
        if not what or not is_digits(digits):
            continue
        sizes[f"{stage}/{digits}"] = sizes.get(f"{stage}/{digits}", 0) + size
        if what == MANIFEST:
            published.add(f"{stage}/{digits}")
    for name, size in sizes.items():
        stage, _, digits = name.partition("/")
        shared = SharedArtifact(remote, name, digits)
        manifest, lock, damage = None, None, ""
        try:
            if name in published:
                manifest = shared.manifest()
            else:
                lock = newest(shared)
        except UserError as error:
            damage = str(error)
        record = lock.lock if lock else None
        owner = record.owner if record and not record.released else ""
        yield Entry(stage, digits, remote, manifest, size, len(record.parts) if record else 0, owner, damage)


def abandoned(entries: Iterable[Entry], seconds: float) -> set[str]:
    """Names of unfinished remote artifacts whose owners do not renew their locks: they are looked at for `seconds`."""

    def looks() -> dict[str, Term | None]:
        return {
            entry.name: newest(SharedArtifact(entry.place, entry.name, entry.digits))
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
    """Names of the artifacts in `keep`, of all that they were made from, and of what was read meanwhile."""
    by_key = {entry.manifest.key: entry for entry in entries if entry.manifest}
    found: set[str] = set()
    sources: set[str] = set()
    segmenters = False
    left = list(keep)
    while left:
        entry = left.pop()
        if entry.name not in found and entry.manifest:
            found.add(entry.name)
            segmenters = segmenters or entry.stage == SEGMENTER
            if entry.stage not in {LABELS, PLAN}:
                sources |= set(entry.manifest.inputs.values())
            left += [by_key[key] for key in entry.manifest.inputs.values() if key in by_key]
    # Plans and class statistics enter no key, as they follow from the data. A plan is told by the label maps that its
    # images were painted from; a segmenter's key holds its photographs too, so any statistics may be its own.
    for entry in entries:
        if entry.manifest and (
            (entry.stage == PLAN and sources.issuperset(entry.manifest.inputs.values()))
            or (entry.stage == LABELS and segmenters)
        ):
            found.add(entry.name)
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
                (entry.stage == "report" and entry.manifest.config.get("name") == name)
                or (len(name) >= 8 and entry.manifest.key.startswith(name))
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
    return (datetime.now(UTC) - datetime.fromisoformat(entry.manifest.finished)).total_seconds() / 86400


def delete(entry: Entry) -> bool:
    """Deletes it; False if somebody builds it here just now."""
    if isinstance(entry.place, Remote):
        SharedArtifact(entry.place, entry.name, entry.digits).delete()
        return True
    folder = entry.place / entry.stage / (entry.digits if entry.manifest else f"{entry.digits}.partial")
    try:
        with _lock(folder.with_name(f"{entry.digits}.lock")) as mine:
            if mine and folder.exists():
                gone = folder.with_name(f"{entry.digits}.deleted")
                shutil.rmtree(gone, ignore_errors=True)
                os.rename(folder, gone)  # from here on it is not there, however this ends
                shutil.rmtree(gone)
            return mine
    except OSError as error:
        raise UserError(f"cannot delete {folder}: {one_line(error)}; see that you may write there") from error


def _held(path: Path) -> bool:
    """Whether somebody holds the lock. It is opened for reading alone: also a store that is read-only is looked at."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none
        return False
    return False


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
