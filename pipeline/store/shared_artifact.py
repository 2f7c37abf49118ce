"""One artifact in the remote store.

<remote>/<stage>/<first 16 digits of the key>/
    files/<sha256>      contents, so that two builders never mix files and nothing is sent twice
    locks/00001 ...     who builds, one object per term of ownership (pipeline.store.lease)
    manifest.json       created exclusively when all files are there: of several builders the first one counts
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.files import file_sha256, write_json
from pipeline.store.manifest import MANIFEST
from pipeline.store.remote import Remote
from pipeline.work.threads import in_order

Parts = dict[str, dict[str, str | int]]
"""`{relative path: {sha256, size}}`, as in a manifest."""


def is_part(path: PurePath) -> bool:
    """Whether a file of an unfinished build is worth keeping: not a lock nor a file that is being written.

    By name: a build writes such files, and nothing else, below folders or under names that start with a dot, end in
    .tmp, .lock or .partial, or have .partial. in them.
    """
    return path.name != MANIFEST and not any(
        name.startswith(".") or name.endswith((".tmp", ".lock", ".partial")) or ".partial." in name
        for name in path.parts
    )


class SharedArtifact(NamedTuple):
    """The artifact of `key` in the folder `name` of the remote store."""

    remote: Remote
    name: str
    key: str

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, None while the artifact is not published. UserError if it is damaged."""
        text = self.remote.read(f"{self.name}/{MANIFEST}")
        if text is None:
            return None
        try:
            manifest: dict[str, Any] = json.loads(text)
            key = manifest["key"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(MANIFEST, "it cannot be read") from error
        if not key.startswith(self.key):
            raise self._damaged(MANIFEST, f"it belongs to another key ({key})")
        return manifest

    def publish(self, folder: Path) -> bool:
        """Sends the finished artifact in `folder`. False if another builder's was published before."""
        manifest = (folder / MANIFEST).read_bytes()
        files: Parts = json.loads(manifest)["files"]
        self.send(folder, files)
        return self.remote.create(f"{self.name}/{MANIFEST}", manifest)

    def fetch(self, folder: Path) -> None:
        """Makes `folder` the published artifact; what of it is already there is not fetched again."""
        manifest = self.manifest()
        if manifest is None:
            raise UserError(f"{self.remote.where(self.name)} has just been deleted: run again")
        self.take(folder, manifest["files"])
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            if path.relative_to(folder).as_posix() not in manifest["files"]:
                path.unlink()
        write_json(folder / MANIFEST, manifest)

    def send(self, folder: Path, files: Mapping[str, Mapping[str, str | int]]) -> None:
        """Makes sure that the files' contents are there."""
        there = self.remote.sizes(f"{self.name}/files")
        sources = {str(entry["sha256"]): (folder / name, entry["size"]) for name, entry in files.items()}
        missing = [
            (path, sha256)
            for sha256, (path, size) in sources.items()
            if there.get(f"{self.name}/files/{sha256}") != size
        ]
        for _ in in_order(lambda item: self.remote.upload(item[0], f"{self.name}/files/{item[1]}"), missing):
            pass

    def take(self, folder: Path, files: Mapping[str, Mapping[str, str | int]]) -> None:
        """Brings files into `folder`, each verified. UserError if one is damaged or missing."""
        for _ in in_order(lambda item: self._take(folder / item[0], item[1]), files.items()):
            pass

    def verify(self, scratch: Path) -> list[str]:
        """One line about each file that is damaged or missing. Every one is read, through a file in `scratch`."""
        manifest = self.manifest()
        lines = []
        for name, entry in (manifest or {"files": {}})["files"].items():
            try:
                self._take(scratch / "file", entry)
            except UserError as error:
                lines.append(f"{name}: {error}")
            (scratch / "file").unlink(missing_ok=True)
        return lines

    def sweep(self) -> None:
        """Deletes the locks, and contents that the published manifest does not name (older checkpoints)."""
        manifest = self.manifest()
        needed = {entry["sha256"] for entry in manifest["files"].values()} if manifest else set()
        for path in self.remote.sizes(f"{self.name}/locks"):
            self.remote.remove(path)
        for path in self.remote.sizes(f"{self.name}/files"):
            if manifest is not None and path.rpartition("/")[2] not in needed:
                self.remote.remove(path)

    def delete(self) -> None:
        """Deletes all of it, the manifest first."""
        self.remote.remove(f"{self.name}/{MANIFEST}")
        for path in self.remote.sizes(self.name):
            self.remote.remove(path)

    def _take(self, path: Path, entry: Mapping[str, str | int]) -> None:
        sha256, place = str(entry["sha256"]), f"files/{entry['sha256']}"
        if path.is_file() and path.stat().st_size == entry["size"] and file_sha256(path) == sha256:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.tmp")
        for _ in range(2):  # once more, as the network may have done the damage
            if not self.remote.download(f"{self.name}/{place}", unfinished):
                raise self._damaged(place, "it is missing")
            if file_sha256(unfinished) == sha256:
                unfinished.replace(path)
                return
        unfinished.unlink()
        raise self._damaged(place, "its content is not what its sha256 says")

    def _damaged(self, what: str, reason: str) -> UserError:
        return UserError(
            f"damaged object {self.remote.where(self.name)}/{what}: {reason}; delete {self.remote.where(self.name)} and"
            " run again to rebuild it"
        )
