"""Who builds an artifact that several machines want: a lease in the remote store.

Each term of ownership is one object `locks/00001`, `locks/00002`, ..., created exclusively by its owner, who then
rewrites it again and again. The states of an artifact there, n being the number of its newest lock:

    nothing there --- anyone creates lock 1 ---> building(1)
    building(n)   --- its owner publishes -----> published: the manifest is there, its owner deletes the locks
    building(n)   --- its owner breaks off ----> released(n): lock n says so and names what is finished
    building(n)   --- its owner dies ----------> stale(n): lock n does not change any more
    released(n), stale(n) --- anyone creates lock n+1 ---> building(n+1), from the parts that lock n names

Only the creator of lock n writes it, renews it (5 times in `seconds`), and only while no higher lock is there. Anyone
may create lock n+1 who has seen lock n released, or unchanged for `seconds` of its own monotonic clock while the store
answered; no clocks are compared. Of several who try, exclusive creation lets one succeed. An owner that was slow and
finds a higher lock stops sending parts, but goes on building: the lease saves work, it is not what keeps artifacts
whole. Whose manifest is created first is published; everybody else fetches that.

A lock also names the finished parts of the build, which its owner has sent before. Whoever takes over fetches them.
"""

import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from pipeline.errors import StoreUnavailableError, UserError
from pipeline.files import file_sha256, inside
from pipeline.store.building import write_attempts
from pipeline.store.locks import LockRecord, Term, newest
from pipeline.store.manifest import MANIFEST, canonical_json, everything_below
from pipeline.store.records import FileTable, StoredFile
from pipeline.store.shared_artifact import SharedArtifact, is_part, leave_only

RENEWALS = 5  # in the time after which a lease is stale
GROWING = ".jsonl"  # files of lines that a build appends to; a resumed build drops lines that came after its checkpoint


class Watch:
    """How long an observer has seen the same lock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: Term | None = None
        self._since = self._last = time.monotonic()

    def stale(self, term: Term) -> bool:
        """Whether the owner of `term`, just read, is dead."""
        now = time.monotonic()
        # After a gap between two looks the count starts anew: the store or this machine stood still, and so the owner
        # may have been unable to renew, too.
        if term != self._seen or now - self._last > self._seconds / 2:
            self._seen, self._since = term, now
        self._last = now
        return term.lock.released or now - self._since > self._seconds


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
                # Between the look above and the creation the last owner published and deleted its locks: this one is
                # nobody's, and the next turn of the loop sees the manifest.
                shared.remote.remove(lease.path)
            # Another one was quicker: look at its lock without a pause.
            continue
        if not waiting:
            waiting = True
            on_wait()
        time.sleep(pause)
        pause = min(pause * 1.5, seconds / 6, 10.0)
    return None


class Lease:
    """A term of ownership. While it is `kept`, threads renew it and send finished parts of the build."""

    def __init__(self, shared: SharedArtifact, seconds: float, home: str, before: Term | None) -> None:
        self._shared, self._seconds = shared, seconds
        # A renewal that takes longer than this is useless, as others may have taken over by then.
        self._quick = shared._replace(remote=shared.remote.hurried(seconds / 2))
        self._number = before.number + 1 if before else 1
        self._at_home = before is None or before.lock.home == home
        parts = before.lock.parts if before else {}
        self._record = LockRecord(
            owner=f"{platform.node()} {os.getpid()}",
            home=home,
            token=uuid.uuid4().hex,
            renewals=0,
            released=False,
            started=before.lock.started if before else datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=before.lock.seconds if before else 0.0,
            # Whoever wrote the lock before chose these names: only such as a build's parts have.
            parts={name: entry for name, entry in parts.items() if is_part(PurePosixPath(name))},
        )
        self._began = time.monotonic()
        self._sent: dict[tuple[str, int, int, int], StoredFile] = {}
        self._said = self._record.parts
        self._there = {entry.sha256 for entry in self._record.parts.values()}
        self._stop, self._writing = threading.Event(), threading.Lock()
        # Set when the folder holds all inherited parts: until then it says nothing about them, and is not mirrored.
        self._complete = threading.Event()
        self.lost = False

    @property
    def path(self) -> str:
        """The lock's object."""
        return f"{self._shared.name}/locks/{self._number:05d}"

    def text(self) -> bytes:
        """What the lock's object is to hold now."""
        seconds = self._record.seconds + time.monotonic() - self._began
        return canonical_json({**self._record.model_dump(), "seconds": round(seconds, 1)}).encode()

    def continues(self, folder: Path) -> None:
        """Brings the parts that owners before had finished into `folder`, with the time that they took. Nothing, if
        there are none or if the folder is where the last owner worked and knows better."""
        self._fetch_parts(folder)
        self._complete.set()

    def _fetch_parts(self, folder: Path) -> None:
        parts = self._record.parts
        if not parts or (folder / MANIFEST).exists() or (self._at_home and any(folder.iterdir())):
            return
        # The parts fit to each other (a log to its checkpoint), not to what an earlier build of ours may have left.
        leave_only(folder, parts)
        for name, entry in parts.items():
            path = inside(folder, name, through_links=False)
            try:
                self._shared.take(folder, {name: entry})
            except StoreUnavailableError:
                raise
            except UserError:
                # It is damaged, or was swept by an owner that was only slow: the build makes it again. What we have
                # under its name is not it.
                path.unlink(missing_ok=True)
        write_attempts(folder, self._record.started, self._record.seconds)

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
            # A higher lock is another owner's word about the parts: ours would come too late.
            if not self._superseded():
                if self._complete.is_set():
                    self._send_parts(folder)
                self._set(released=True)
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
                # In this order, whoever takes over finds all that the lock names at any moment: contents are sent, then
                # named, and those of before deleted on the next turn.
                self._sweep()
                self._send_parts(folder)
                if self._record.parts != self._said and not self._superseded():
                    self._write()
            except (UserError, OSError):
                continue  # a file was renamed away meanwhile, or the store does not answer: the next look is soon

    def _write(self) -> None:
        with self._writing:
            self._record = self._record.model_copy(update={"renewals": self._record.renewals + 1})
            said = self._record.parts
            self._quick.remote.write(self.path, self.text())
            self._said = said

    def _set(self, **fields: object) -> None:
        with self._writing:  # the threads change different fields of one record
            self._record = self._record.model_copy(update=fields)

    def _sweep(self) -> None:
        """Deletes what was sent and is no part any more (older checkpoints), once the lock says so."""
        needed = {entry.sha256 for parts in (self._record.parts, self._said) for entry in parts.values()}
        for sha256 in self._there - needed:
            self._there.discard(sha256)
            self._quick.remote.remove(f"{self._shared.name}/files/{sha256}")

    def _superseded(self) -> bool:
        locks = self._quick.remote.sizes(f"{self._shared.name}/locks")
        return not locks or max(locks) != self.path

    def _send_parts(self, folder: Path) -> None:
        """Sends what is finished and then notes it. A file that is written to meanwhile waits for the next time.

        Files that grow come last: a log may be newer than the checkpoint beside it, not older.
        """
        parts: FileTable = {}
        snapshot = folder.with_name(f"{folder.stem}.mirror")
        snapshot.mkdir(exist_ok=True)
        try:
            names = [path.relative_to(folder) for path in everything_below(folder) if not path.is_symlink()]
            for name in sorted((name for name in names if is_part(name)), key=lambda name: name.suffix == GROWING):
                entry = self._send_part(folder / name, name.as_posix(), snapshot / "file")
                if entry is not None:
                    parts[name.as_posix()] = entry
        finally:
            shutil.rmtree(snapshot, ignore_errors=True)
        self._set(parts=parts)

    def _send_part(self, path: Path, name: str, snapshot: Path) -> StoredFile | None:
        stat = path.stat()
        state = (name, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if state in self._sent:
            return self._sent[state]
        snapshot.unlink(missing_ok=True)
        if path.suffix == GROWING:
            shutil.copyfile(path, snapshot)
        else:
            os.link(path, snapshot)  # the same content even if a rename replaces the file meanwhile
        entry = StoredFile(sha256=file_sha256(snapshot), size=snapshot.stat().st_size)
        if entry.sha256 not in self._there:
            self._quick.remote.upload(snapshot, f"{self._shared.name}/files/{entry.sha256}")
            self._there.add(entry.sha256)
        # Written in place while it was read: what was sent may be half of one version and half of another.
        if path.suffix != GROWING and snapshot.stat().st_mtime_ns != stat.st_mtime_ns:
            return None
        self._sent[state] = entry
        return entry
