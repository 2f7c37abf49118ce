"""Who builds an artifact that several machines want: a lease in the remote store.

Each term of ownership is one object `locks/00001`, `locks/00002`, ..., created exclusively by its owner, who then
rewrites it again and again. A lease is stale when an observer has seen it unchanged for `seconds` of its own monotonic
clock while the store answered; no clocks are compared. Taking over is creating the next number. The lease saves work;
it is not what keeps artifacts whole: an owner that was only slow does no harm, as the first manifest counts.

The lock also names the finished parts of the build, which its owner has sent: whoever takes over starts from them.
"""

import json
import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import StoreUnavailableError, UserError
from pipeline.files import file_sha256
from pipeline.store.manifest import MANIFEST
from pipeline.store.shared_artifact import Parts, SharedArtifact, is_part

RENEWALS = 5  # in the time after which a lease is stale
GROWING = ".jsonl"  # files of lines that a build appends to; a resumed build drops lines that came after its checkpoint


class Term(NamedTuple):
    """The newest lock of an artifact: its number and what its owner last wrote."""

    number: int
    content: dict[str, Any]


def newest(shared: SharedArtifact) -> Term | None:
    """The lock that counts, None if there is none."""
    for path in reversed(shared.remote.sizes(f"{shared.name}/locks")):
        text = shared.remote.read(path)
        if text is not None:
            return Term(int(path.rpartition("/")[2]), json.loads(text))
    return None


class Watch:
    """How long an observer has seen the same lock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: Term | None = None
        self._since = self._last = time.monotonic()

    def stale(self, term: Term) -> bool:
        """Whether the owner of `term`, just read, is dead. A gap between looks (the store or this process stood still)
        starts the count anew: the owner could not renew either."""
        now = time.monotonic()
        if term != self._seen or now - self._last > self._seconds / 2:
            self._seen, self._since = term, now
        self._last = now
        return bool(term.content["released"]) or now - self._since > self._seconds


def acquire(shared: SharedArtifact, seconds: float, home: str, on_wait: Callable[[], None]) -> "Lease | None":
    """The right to build; None if the artifact is published, perhaps after waiting for its builder.

    `home` names the local store: a builder that comes back to its own partial folder need not fetch its parts.
    """
    watch, pause, waiting = Watch(seconds), 0.1, False
    while shared.manifest() is None:
        term = newest(shared)
        if term is None or watch.stale(term):
            lease = Lease(shared, seconds, home, term)
            if shared.remote.create(lease.path, lease.text()):
                if shared.manifest() is None:
                    return lease
                shared.remote.remove(lease.path)  # published, and its locks deleted, since the last look
            continue
        if not waiting:
            waiting = True
            on_wait()
        time.sleep(pause)
        pause = min(pause * 1.5, seconds / 6, 10.0)
    return None


class Lease:
    """A term of ownership. Between `start` and `stop` threads renew it and send finished parts of the build."""

    def __init__(self, shared: SharedArtifact, seconds: float, home: str, before: Term | None) -> None:
        self._shared, self._seconds = shared, seconds
        self._quick = shared._replace(remote=shared.remote.hurried(seconds / 2))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        first = {"home": home, "started": now, "seconds": 0.0, "parts": {}}
        inherited: dict[str, Any] = before.content if before else first
        self._number = before.number + 1 if before else 1
        self._at_home = inherited["home"] == home
        self._content = {
            "owner": f"{platform.node()} {os.getpid()}",
            "home": home,
            "token": uuid.uuid4().hex,
            "renewals": 0,
            "released": False,
            "started": inherited["started"],
            "seconds": inherited["seconds"],
            "parts": inherited["parts"],
        }
        self._began = time.monotonic()
        self._sent: dict[tuple[str, int, int, int], dict[str, str | int]] = {}
        self._said: Parts = inherited["parts"]
        self._there = {str(entry["sha256"]) for entry in inherited["parts"].values()}
        self._stop, self._writing = threading.Event(), threading.Lock()
        self._complete = (
            threading.Event()
        )  # the folder holds all inherited parts: until then it says nothing about them
        self.lost = False

    @property
    def path(self) -> str:
        """The lock's object."""
        return f"{self._shared.name}/locks/{self._number:05d}"

    def text(self) -> bytes:
        """What the lock's object is to hold now."""
        seconds = self._content["seconds"] + time.monotonic() - self._began
        return json.dumps({**self._content, "seconds": round(seconds, 1)}, sort_keys=True).encode()

    def continues(self, folder: Path) -> dict[str, Any] | None:
        """Brings the parts that owners before had finished into `folder`; {started, seconds} of their work. None if
        there are none, or if the folder is where the last owner worked and knows better."""
        before = self._fetch_parts(folder)
        self._complete.set()
        return before

    def _fetch_parts(self, folder: Path) -> dict[str, Any] | None:
        parts = self._content["parts"]
        if not parts or (folder / MANIFEST).exists() or (self._at_home and any(folder.iterdir())):
            return None
        for path in [p for p in folder.rglob("*") if p.is_file()]:  # it may not fit to what is known there
            if path.relative_to(folder).as_posix() not in parts:
                path.unlink()
        for name, entry in parts.items():
            try:
                self._shared.take(folder, {name: entry})
            except StoreUnavailableError:
                raise
            except UserError:  # swept by an owner that was only slow, or damaged: it is made again
                (folder / name).unlink(missing_ok=True)
        return {name: self._content[name] for name in ("started", "seconds")}

    @contextmanager
    def kept(self, folder: Path) -> Iterator[None]:
        """Keeps the lease while `folder` is built and published; then the locks go. If that breaks off, the finished
        parts are sent and the lease is released at once."""
        threads = [threading.Thread(target=work, args=(folder,), daemon=True) for work in (self._renew, self._mirror)]
        for thread in threads:
            thread.start()
        try:
            yield
        except BaseException:
            self._end(threads)
            self._release(folder)
            raise
        self._end(threads)
        self._shared.sweep()

    def _end(self, threads: list[threading.Thread]) -> None:
        self._stop.set()
        for thread in threads:
            thread.join()

    def _release(self, folder: Path) -> None:
        try:
            if not self._superseded():
                if self._complete.is_set():
                    self._send_parts(folder)
                self._content["released"] = True
                self._quick.remote.write(self.path, self.text())
        except (UserError, OSError):
            pass  # the lease goes stale by itself, with the parts of the last renewal

    def _renew(self, folder: Path) -> None:
        while not self._stop.wait(self._seconds / RENEWALS):
            try:
                if self._superseded():
                    self.lost = True
                    return
                self._write()
            except UserError:
                continue  # the store does not answer: observers cannot read it either, and start to count anew

    def _mirror(self, folder: Path) -> None:
        while not self._stop.wait(self._seconds / RENEWALS) and not self.lost:
            if not self._complete.is_set():
                continue
            try:
                self._sweep()
                self._send_parts(folder)
                if self._content["parts"] != self._said and not self._superseded():
                    self._write()
            except (UserError, OSError):
                continue  # a file was renamed away meanwhile, or the store does not answer: the next look is soon

    def _write(self) -> None:
        with self._writing:
            parts = self._content["parts"]
            self._content["renewals"] += 1
            self._quick.remote.write(self.path, self.text())
            self._said = parts

    def _sweep(self) -> None:
        """Deletes what was sent and is no part any more (older checkpoints), once the lock says so."""
        needed = {str(entry["sha256"]) for parts in (self._content["parts"], self._said) for entry in parts.values()}
        for sha256 in self._there - needed:
            self._there.discard(sha256)
            self._quick.remote.remove(f"{self._shared.name}/files/{sha256}")

    def _superseded(self) -> bool:
        locks = self._quick.remote.sizes(f"{self._shared.name}/locks")
        return not locks or max(locks) != self.path

    def _send_parts(self, folder: Path) -> None:
        """Sends what is finished and then says so. A file that is written to meanwhile waits for the next time.

        Files that grow come last: a log may be newer than the checkpoint beside it, not older.
        """
        parts: Parts = {}
        snapshot = folder.with_name(f"{folder.stem}.mirror")
        snapshot.mkdir(exist_ok=True)
        try:
            files = [p for p in sorted(folder.rglob("*")) if p.is_file() and is_part(p.relative_to(folder))]
            for path in sorted(files, key=lambda p: p.suffix == GROWING):
                entry = self._send_part(path, path.relative_to(folder).as_posix(), snapshot / "file")
                if entry is not None:
                    parts[path.relative_to(folder).as_posix()] = entry
        finally:
            shutil.rmtree(snapshot, ignore_errors=True)
        self._content["parts"] = parts

    def _send_part(self, path: Path, name: str, snapshot: Path) -> dict[str, str | int] | None:
        stat = path.stat()
        state = (name, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if state in self._sent:
            return self._sent[state]
        snapshot.unlink(missing_ok=True)
        if path.suffix == GROWING:
            shutil.copyfile(path, snapshot)
        else:
            os.link(path, snapshot)  # the same content even if a rename replaces the file meanwhile
        entry: dict[str, str | int] = {"sha256": file_sha256(snapshot), "size": snapshot.stat().st_size}
        if entry["sha256"] not in self._there:
            self._quick.remote.upload(snapshot, f"{self._shared.name}/files/{entry['sha256']}")
            self._there.add(str(entry["sha256"]))
        if path.suffix != GROWING and snapshot.stat().st_mtime_ns != stat.st_mtime_ns:
            return None
        self._sent[state] = entry
        return entry
