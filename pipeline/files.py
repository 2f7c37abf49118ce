"""Files that are whole or not there, and names from outside that become paths only after they were checked.

Two promises can be asked of a write. *Whole*: nobody ever sees half a file, even if the process dies. *Durable*: what
was seen is still there after a power cut. Everything that counts as finished work (shards, checkpoints, manifests, the
objects of a shared folder) is written durably; notes that can be made again (counts, previews) are only written whole.
"""

import hashlib
import json
import os
import re
import tempfile
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import UserError, one_line

LONGEST_NAME = 255  # bytes: the limit of the usual file systems
LONGEST_PATH = 2000  # characters of a name below a folder (ours): half of what the kernel takes of a whole path
UNFINISHED = ".partial"  # ends the names of folders that are not whole
LONGEST_STEM = 120  # characters of a name that was made from a scene or a data set


@contextmanager
def written_whole(path: Path, *, durable: bool = True, unfinished: Path | None = None) -> Iterator[Path]:
    """Gives a path to write to; what was written appears as `path` by one rename when the block ends well.

    The unfinished file lies beside `path` under a name of its own, which `pipeline.store.shared_artifact.is_part`
    refuses, or is `unfinished`, a path on the same file system. It is removed where the block fails, and left where the
    process dies.
    """
    with _unfinished(path, durable, unfinished) as file:
        yield file
        if durable:
            _fsync(file)
        os.replace(file, path)


@contextmanager
def written_once(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """As `written_whole`, but FileExistsError where `path` is there when the block ends: of several writers, on one or
    several machines, the first one's file stays."""
    with _unfinished(path, durable, None) as file:
        yield file
        if durable:
            _fsync(file)
        os.link(file, path)
        file.unlink()


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """Writes JSON whole. ValueError where `content` holds a number that JSON has no word for (NaN, infinity)."""
    with written_whole(path, durable=durable) as unfinished:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def _unfinished(path: Path, durable: bool, file: Path | None) -> Iterator[Path]:
    # The name does not hold `path`'s own: that may already be as long as a name can be.
    file = file or path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield file
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Gives a folder to write to; it appears as `folder` by one rename when the block ends well.

    The unfinished folder is hidden beside it and stays where the block fails or the process dies, so that the same call
    continues in it. `folder` may exist while it is empty.
    """
    unfinished = unfinished_folder(folder)
    unfinished.mkdir(parents=True, exist_ok=True)
    yield unfinished
    for path in unfinished.rglob("*"):
        if path.name.startswith(".") and path.name.endswith(".tmp"):  # of a process that died while it wrote a file
            path.unlink()
        elif path.is_file():
            _fsync(path)
        else:
            fsync_folder(path)
    os.replace(unfinished, folder)
    fsync_folder(folder.parent)


def unfinished_folder(folder: Path) -> Path:
    """Where `folder_written_whole` writes until all is there."""
    return folder.absolute().with_name(f".{folder.absolute().name}{UNFINISHED}")


def check_output(path: Path, option: str) -> None:
    """UserError, before long work, where nothing can be written at `path`, which the user gave by `option`, or where it
    lies in a finished artifact, which a further file would damage."""
    path = path.absolute()
    for parent in path.parents:
        if re.fullmatch("[0-9a-f]{16,64}", parent.name) and (parent / "manifest.json").is_file():
            raise UserError(f"{option} {path} lies in the artifact {parent}, which never changes: name another place")
    try:
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written ({one_line(error)}): name another place") from error
    if existing != path and not existing.is_dir():
        raise UserError(f"{option} {path} cannot be written, {existing} is a file: name another place")
    try:
        writable = os.access(existing, os.W_OK)
        if existing.is_dir():
            tempfile.TemporaryFile(dir=existing).close()  # where the rights do not tell: /proc, a share, a full disk
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written ({error.strerror}): name another place") from error
    if not writable:
        raise UserError(f"{option} {path} cannot be written, {existing} may not be written to: name another place")
    if len(os.fsencode(path.name)) > LONGEST_NAME - len(UNFINISHED) - 1:
        raise UserError(f"{option} {path} cannot be written, its name is too long: name another place")


def check_new_folder(path: Path, option: str) -> None:
    """`check_output`, and UserError where `path` is there already and is no empty folder, or is one that no rename can
    replace: the working folder, or where a disk is mounted."""
    check_output(path, option)
    if path.is_mount() or path.absolute() == Path.cwd():
        raise UserError(f"{option} {path.absolute()} is in use by the system; name a new folder in it, or elsewhere")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{option} {path} exists and is not an empty folder; name a new folder")


def fsync_folder(folder: Path) -> None:
    """Makes the folder's own entries (a rename in it) durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: Path) -> Path:
    """Puts the sha256 of a whole file into its name (`12.pt` -> `12-SHA256.pt`); its new path.

    So unfinished work that is taken up later tells by itself whether it is what was written, see `seal_holds`.
    """
    sealed = path.with_name(f"{path.stem}-{file_sha256(path)}{path.suffix}")
    os.replace(path, sealed)
    fsync_folder(path.parent)
    return sealed


def seal_holds(sealed: Path) -> bool:
    """Whether a file that `seal` has named still has the content that it had then."""
    return sealed.stem.rpartition("-")[2] == file_sha256(sealed)


def inside(folder: Path, name: object, *, through_links: bool = True) -> Path:
    """The path of the file `name` below `folder`, where `name` was read from a file (a manifest, a lock, a plan).

    UserError unless `name` is a relative path in its one plain spelling: no `..`, no `.`, no leading or doubled slash,
    no backslash, no control character, every part short enough for a file name. So nothing that is read from a shared
    store can name a place outside the folder that it belongs to. `through_links=False` refuses it also where the file,
    or a folder between it and `folder`, is a symbolic link, which could lead out.
    """
    if not is_plain_path(name):
        shown = repr(name) if len(repr(name)) <= 100 else repr(name)[:97] + "..."
        raise UserError(
            f"a file below {folder} is named {shown}: wanted a plain relative path; whoever wrote that name did not use"
            " flexseg, delete the folder or the object it came from"
        )
    path = folder / str(name)
    if not through_links:
        for step in (path, *path.parents):
            if step == folder:
                break
            if step.is_symlink():
                raise UserError(f"{step} is a symbolic link, wanted a file or folder of the store's own: delete it")
    return path


def is_plain_path(name: object) -> bool:
    """Whether `name` is a relative path as `inside` wants it."""
    if not isinstance(name, str):
        return False
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and "/".join(parts) == name
        and ".." not in parts
        and not name.startswith("/")
        and "\\" not in name
        and name.isprintable()
        and len(name) <= LONGEST_PATH
        and all(len(os.fsencode(part)) <= LONGEST_NAME for part in parts)
    )


def printable(path: Path) -> str:
    """A path for a message: on one line, and without bytes that are no text."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def file_stem(text: str) -> str:
    """A file name's stem for any text (a scene's id, a data set's name): safe, short, and another one for every text.

    Letters, digits and `-_.` stay; where anything else was replaced, or the text is long, a digest of the whole text
    is added, so that two texts never share a stem.
    """
    folded = unicodedata.normalize("NFC", text)
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in folded).lstrip(".")
    looks_made = re.search("-[0-9a-f]{10}$", kept) is not None  # it may be the stem of another text
    if kept and kept == text and len(kept) <= LONGEST_STEM and not looks_made:
        return kept
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{kept[:LONGEST_STEM]}-{digest}"
