"""One artifact in the remote store.

<remote>/<stage>/<first 16 digits of the key>/
    files/<sha256>      contents, so that two builders never mix files and nothing is sent twice
    locks/00001 ...     who builds, one object per term of ownership (pipeline.store.lease)
    manifest.json       created exclusively when all files are there: of several builders the first one counts
"""

from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.files import file_sha256, inside, written_whole
from pipeline.store.manifest import MANIFEST, Manifest, everything_below, parse_manifest
from pipeline.store.records import DamagedError, FileTable, StoredFile
from pipeline.store.remote import Remote
from pipeline.work.threads import in_order
from pipeline.work.units import DIGEST, PARTS, WORK


def is_part(path: PurePath) -> bool:
    """Whether a file of an unfinished build is worth keeping: not a lock nor a file that is being written.

    By name: a build writes such files, and nothing else, below folders or under names that start with a dot, end in
    .tmp, .lock or .partial, or have .partial. in them. Of units' work folder their digests and `PARTS` are kept.
    """
    if path.parts[0] == WORK:
        return path.suffix == DIGEST or path.parts[1:-1] == (PARTS,)
    return path.name != MANIFEST and not any(
        name.startswith(".") or name.endswith((".tmp", ".lock", ".partial")) or ".partial." in name
        for name in path.parts
    )


def leave_only(folder: Path, names: Container[str]) -> None:
    """Deletes all below `folder` but the files of these names. Links are deleted, never followed; so are folders that
    are left empty, which may be in the way of files."""
    for path in everything_below(folder):
        if path.is_symlink() or path.relative_to(folder).as_posix() not in names:
            path.unlink()
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):  # it is not empty
            path.rmdir()


class SharedArtifact(NamedTuple):
    """The artifact of `key` in the folder `name` of the remote store."""

    remote: Remote
    name: str
    key: str

    def manifest(self) -> Manifest | None:
        """The manifest, None while the artifact is not published. UserError if it is damaged or another artifact's."""
        data = self.remote.read(f"{self.name}/{MANIFEST}")
        if data is None:
            return None
        try:
            manifest = parse_manifest(data)
        except DamagedError as error:
            raise self.damaged(MANIFEST, str(error)) from error
        if not manifest.key.startswith(self.key) or manifest.stage != self.name.partition("/")[0]:
            raise self.damaged(MANIFEST, f"it belongs to another key ({manifest.stage} {manifest.key})")
        return manifest

    def publish(self, folder: Path) -> bool:
        """Sends the finished artifact in `folder`. False if another builder's was published before."""
        data = (folder / MANIFEST).read_bytes()
        # Contents before the manifest that names them: whoever sees a manifest finds all of its files.
        self.send(folder, parse_manifest(data).files)
        return self.remote.create(f"{self.name}/{MANIFEST}", data)

    def fetch(self, folder: Path) -> None:
        """Makes `folder` the published artifact; what of it is already there is not fetched again."""
        manifest = self.manifest()
        if manifest is None:
            raise UserError(f"{self.remote.where(self.name)} has just been deleted: run again")
        leave_only(folder, manifest.files)
        self.take(folder, manifest.files)
        with written_whole(folder / MANIFEST) as unfinished:
            unfinished.write_bytes(manifest.text())

    def send(self, folder: Path, files: Mapping[str, StoredFile]) -> None:
        """Makes sure that the files' contents are there."""
        there = self.remote.sizes(f"{self.name}/files")
        # By content, not by name: what another builder of the same artifact has sent is not sent again.
        sources = {entry.sha256: (inside(folder, name), entry.size) for name, entry in files.items()}
        missing = [
            (path, sha256)
            for sha256, (path, size) in sources.items()
            if there.get(f"{self.name}/files/{sha256}") != size
        ]
        for _ in in_order(lambda item: self.remote.upload(item[0], f"{self.name}/files/{item[1]}"), missing):
            pass

    def take(self, folder: Path, files: FileTable) -> None:
        """Brings files into `folder`, each verified. UserError if one is damaged or missing, or would lie elsewhere."""
        # All names are looked at before the first file is written.
        paths = [(inside(folder, name, through_links=False), entry) for name, entry in files.items()]
        for _ in in_order(lambda item: self._take(*item), paths):
            pass

    def verify(self, scratch: Path) -> list[str]:
        """One line about each file that is damaged or missing. Every one is read, through a file in `scratch`."""
        manifest = self.manifest()
        lines = []
        for name, entry in (manifest.files if manifest else {}).items():
            try:
                self._take(scratch / "file", entry)
            except UserError as error:
                lines.append(f"{name}: {error}")
            (scratch / "file").unlink(missing_ok=True)
        return lines

    def sweep(self) -> None:
        """Deletes the locks, and contents that the published manifest does not name (older checkpoints)."""
        # Only while the manifest is there: without one, another builder may be about to name these contents in its own.
        manifest = self.manifest()
        needed = {entry.sha256 for entry in manifest.files.values()} if manifest else set()
        for path in self.remote.sizes(f"{self.name}/locks"):
            self.remote.remove(path)
        for path in self.remote.sizes(f"{self.name}/files"):
            if manifest is not None and path.rpartition("/")[2] not in needed:
                self.remote.remove(path)

    def delete(self) -> None:
        """Deletes all of it, the manifest first."""
        # In the order in which it was made, backwards: nobody finds a manifest whose files are going.
        self.remote.remove(f"{self.name}/{MANIFEST}")
        for path in self.remote.sizes(self.name):
            self.remote.remove(path)

    def damaged(self, what: str, reason: str) -> UserError:
        """The line about an object of the artifact that cannot be used."""
        where = self.remote.where(self.name)
        return UserError(f"damaged object {where}/{what}: {reason}; delete {where} and run again to rebuild it")

    def _take(self, path: Path, entry: StoredFile) -> None:
        place = f"files/{entry.sha256}"
        if path.is_file() and path.stat().st_size == entry.size and file_sha256(path) == entry.sha256:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            for _ in range(2):  # once more, as the network may have done the damage
                if not self.remote.download(f"{self.name}/{place}", unfinished):
                    raise self.damaged(place, "it is missing")
                if file_sha256(unfinished) == entry.sha256:
                    return
            raise self.damaged(place, "its content is not what its sha256 says")
