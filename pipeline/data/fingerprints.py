"""What a data set's content is, as one key: the sha256 of its files, so that copies on two machines have one key.

Files are read once. What was found is remembered beside the store's artifacts with everything that changes when a file
does: size, both times, and inode. (A modification time can be set back, as `cp -p` and `tar` do; a change time cannot.)
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.data.datasets import Scene
from pipeline.errors import UserError, one_line
from pipeline.files import file_sha256, written_whole
from pipeline.store.manifest import canonical_digest
from pipeline.work.progress import Track, silent
from pipeline.work.threads import CORES, in_order

FOLDER = "fingerprints"
SETTLED_S = 2.0
"""A file that changed so shortly before it was read may change again within one tick of the file system's clock: it is
read again next time."""

Status = list[int]
"""Size in bytes, mtime and ctime in ns, inode."""


class FileDigests:
    """The sha256 of files by path, remembered in one file per data set in `folder`; nowhere if it is None."""

    def __init__(self, folder: Path | None, progress: Track = silent) -> None:
        self._folder = folder
        self._progress = progress

    def of(self, name: str, paths: Sequence[Path]) -> dict[Path, str | None]:
        """Hex sha256 of each of the files of the data set `name`; None for one that is not there.

        UserError where a file is there and cannot be read. A memory that is damaged, or cannot be written, costs time
        only.
        """
        memory = self._memory(name, paths)
        known = _read(memory) if memory is not None else {}
        begin = time.time_ns()
        states = dict(zip(paths, in_order(_status, paths, ahead=4 * CORES, threads=CORES), strict=True))
        new = [path for path, status in states.items() if status and known.get(_text(path), (None, ""))[0] != status]
        reading = in_order(_sha256, new, ahead=2 * CORES, threads=CORES)
        track = self._progress(reading, total=len(new), description=f"reading files of {name}") if new else iter(())
        read = dict(zip(new, track, strict=True))
        digests = {
            path: None if status is None else read[path] if path in read else known[_text(path)][1]
            for path, status in states.items()
        }
        if memory is not None and new:
            settled = {
                _text(path): (status, digests[path])
                for path, status in states.items()
                if status is not None and max(status[1], status[2]) < begin - SETTLED_S * 1e9
            }
            _write(memory, {**known, **settled})
        return digests

    def _memory(self, name: str, paths: Sequence[Path]) -> Path | None:
        if self._folder is None or not paths:
            return None
        place = canonical_digest([name, _text(paths[0].parent), paths[0].suffix])[:16]
        return self._folder / place


def labels_fingerprint(name: str, scenes: Sequence[Scene], digests: FileDigests) -> str:
    """Hex sha256 of all that label maps give: ids of the scenes, conditions, id tables, and the files' content."""
    content = digests.of(f"{name} labels", [scene.label for scene in scenes])
    tables = {id(scene.ids): canonical_digest(sorted(scene.ids.items())) for scene in scenes}
    return canonical_digest([[s.id, s.condition, tables[id(s.ids)], content[s.label]] for s in scenes])


def fingerprint(labels: str, name: str, scenes: Sequence[Scene], digests: FileDigests) -> str:
    """Hex sha256 of all that label maps (whose fingerprint is `labels`) and images give."""
    images = [scene.image for scene in scenes if scene.image is not None]
    content = digests.of(f"{name} images", images)
    pictures = [content[scene.image] if scene.image else None for scene in scenes]
    return canonical_digest([labels, pictures])


def _text(path: Path) -> str:
    return str(path.absolute())


def _status(path: Path) -> Status | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); give yourself access to it") from error
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); get the file again") from error


def _read(memory: Path) -> dict[str, tuple[Status, str | None]]:
    """What was remembered; nothing where it is damaged, as its own digest tells."""
    try:
        digest, _, text = memory.read_text(encoding="utf-8").partition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            return {}
        return {path: (status, sha256) for path, (status, sha256) in json.loads(text).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write(memory: Path, known: Mapping[str, tuple[Status, str | None]]) -> None:
    text = json.dumps(known)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with contextlib.suppress(OSError):  # a store that cannot be written to is somebody else's to report
        memory.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(memory, durable=False) as unfinished:
            unfinished.write_text(f"{digest}\n{text}", encoding="utf-8")
