"""An object store (or any fsspec file system) that several machines share: retried, and created exclusively.

Objects are small enough to be written by one call, and a reader sees all of an object or none of it. Where a `create`
is answered after a lost connection, nobody knows who made the object: contents that are compared must be unique.
"""

import copy
import errno
import itertools
import os
import platform
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StoreUnavailableError, UserError, one_line
from pipeline.files import written_once, written_whole
from pipeline.seeding import derive_seed

T = TypeVar("T")

PATIENCE = 300.0  # s that an object store may fail to answer before work on it stops
LONGEST_PAUSE = 5.0  # s between two tries
FINAL = (FileNotFoundError, FileExistsError, PermissionError, NotImplementedError, TypeError, ValueError)
FINAL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG}


class RemoteFullError(UserError):
    """There is no room in the remote store, or it may only be read."""


class Remote:
    """The folder `url` of a file system. Paths are relative to it.

    Every method tries again, after pauses that double, while the store does not answer or answers with an error of its
    own; after `patience` seconds it raises StoreUnavailableError.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.patience = PATIENCE
        try:
            self._fs, self._root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except Exception as error:  # of a dozen libraries, each with its own
            raise UserError(
                f"cannot use the remote store {masked(url)!r}: {masked(one_line(error))}; set machine.remote to a URL"
                " as s3://bucket/folder, and install its fsspec package"
            ) from error
        self._root = self._root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self._random = random.Random(derive_seed(platform.node(), os.getpid(), url))  # two machines never in step

    def hurried(self, patience: float) -> "Remote":
        """The same folder with less patience."""
        other = copy.copy(self)
        other.patience = min(patience, self.patience)
        return other

    def where(self, path: str) -> str:
        """The URL of `path`, for people: what may be secret in it is masked."""
        return f"{masked(self.url)}/{path}" if path else masked(self.url)

    def read(self, path: str) -> bytes | None:
        """The object's bytes, None if there is none."""
        try:
            return self._try(self._fs.cat_file, self._full(path))
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Makes or replaces the object."""
        self._send(path, self._put_locally if self._local else self._fs.pipe_file, data)

    def create(self, path: str, data: bytes) -> bool:
        """Makes the object if there is none; whether it now has the bytes `data`. Of several callers one makes it."""
        try:
            self._send(path, self._link_locally if self._local else self._create, data)
        except FileExistsError:
            return self.read(path) == data  # it may be ours: made by a try whose answer was lost
        return True

    def upload(self, source: Path, path: str) -> None:
        """Copies a local file there."""
        put = self._copy_locally if self._local else lambda path, source: self._fs.put_file(source, path)
        self._send(path, put, str(source))

    def download(self, path: str, target: Path) -> bool:
        """Copies an object to a local file; whether there is such an object."""
        try:
            self._try(self._fs.get_file, self._full(path), str(target))
        except FileNotFoundError:
            return False
        return True

    def sizes(self, folder: str = "") -> dict[str, int]:
        """{path: bytes} of everything below `folder`."""
        start = self._full(folder) if folder else self._root
        try:
            found: dict[str, dict[str, Any]] = self._try(lambda: self._fs.find(start, detail=True))
        except FileNotFoundError:
            return {}
        # s3fs names the folder itself where its first object is made between the listing and a second look
        objects = {name: info for name, info in found.items() if info.get("type") != "directory"}
        below = {name.rstrip("/").removeprefix(self._root).lstrip("/"): int(info["size"] or 0)
                 for name, info in objects.items()}  # fmt: skip
        return dict(sorted((name, size) for name, size in below.items() if not name.endswith(".tmp")))

    def exists(self) -> bool:
        """Whether there is such a folder; of an object store, whether anything was ever put there."""
        try:
            self._try(self._fs.info, self._root)  # fsspec's own `exists` takes a store that does not answer for none
        except FileNotFoundError:
            return False
        return True

    def remove(self, path: str) -> None:
        """Deletes the object, if there is one."""
        with suppress(FileNotFoundError):
            self._try(self._fs.rm_file, self._full(path))

    def check(self) -> None:
        """Writes, reads, creates and deletes one object. UserError if something of it does not work."""
        probe, data = f".probe-{uuid.uuid4().hex}", os.urandom(8)
        try:
            made = self.create(probe, data) and self.read(probe) == data
            exclusive = not self.create(probe, b"another")
            self.remove(probe)
        except FileNotFoundError as error:
            raise self._unusable(f"there is no such bucket ({one_line(error)})") from error
        except UserError:
            raise
        except Exception as error:
            raise self._unusable(one_line(error)) from error
        if not made or not exclusive:
            raise self._unusable("it cannot create an object exclusively (S3's If-None-Match: *), so that two machines"
                                 " could not agree on who builds")  # fmt: skip

    def _unusable(self, reason: str) -> UserError:
        return UserError(f"cannot use the remote store {masked(self.url)}: {masked(reason)}; set machine.remote, or the"
                         " credentials in the environment")  # fmt: skip

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _send(self, path: str, put: Callable[[str, Any], object], content: object) -> None:
        """Tries `put(full path, content)`; a place without room is one line."""
        try:
            self._try(put, self._full(path), content)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
                raise
            raise RemoteFullError(
                f"cannot write to the remote store {masked(self.url)}: {os.strerror(error.errno)}; free space there"
                " (flexseg cache prune --remote), what was sent is kept, the same command continues"
            ) from None

    def _try(self, operation: Callable[..., T], *arguments: object) -> T:
        deadline = time.monotonic() + self.patience
        for attempt in itertools.count():
            try:
                return operation(*arguments)
            except PermissionError as error:
                raise self._unusable(one_line(error)) from error
            except Exception as error:
                if _final(error):
                    raise
                pause = min(0.1 * 2**attempt, LONGEST_PAUSE) * self._random.uniform(0.5, 1.5)
                if time.monotonic() + pause > deadline:
                    raise StoreUnavailableError(
                        f"the remote store {masked(self.url)} has not answered for {self.patience:.0f} s:"
                        f" {masked(one_line(error))}; nothing is lost: run again when it answers"
                    ) from error
                time.sleep(pause)
        raise AssertionError("never reached")

    def _create(self, path: str, data: bytes) -> None:
        try:
            self._fs.pipe_file(path, data, mode="create")
        except OSError as error:
            if _code(error) in {"PreconditionFailed", "412"}:  # s3fs knows AWS's own words alone
                raise FileExistsError(path) from error
            raise

    # In a folder that machines share an object appears whole, and durably: others act on it at once.

    def _copy_locally(self, path: str, source: str) -> None:
        with written_whole(_with_folder(path)) as unfinished:
            shutil.copyfile(source, unfinished)

    def _put_locally(self, path: str, data: bytes) -> None:
        with written_whole(_with_folder(path)) as unfinished:
            unfinished.write_bytes(data)

    def _link_locally(self, path: str, data: bytes) -> None:
        with written_once(_with_folder(path)) as unfinished:
            unfinished.write_bytes(data)


def masked(text: str) -> str:
    """A URL, or a message with one in it, without what may be secret: user, password, query."""
    text = re.sub(r"://[^/\s]*@", "://***@", text)
    text = re.sub(r"://[^\s]*:[^\s]*@", "://***@", text)  # a password with slashes
    return re.sub(r"(://[^\s?]*)\?[^\s'\"]*", r"\1?***", text)


def _with_folder(path: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)


def _code(error: BaseException | None) -> str:
    """The S3 error code below an error of fsspec's."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _final(error: Exception) -> bool:
    """Whether the same call would fail again: not a fault of the network or the server's."""
    return isinstance(error, FINAL) or (isinstance(error, OSError) and error.errno in FINAL_ERRNO)
