"""The manifest of an artifact: what it was made from, on what, in how long, and the sha256 of every file.

It vouches for itself: `digest` is the sha256 of all its other fields, and its key is that of the stage, the version,
the config and the inputs that stand in it. Manifests of flexseg 0.1 have no digest and are read all the same: their
keys vouch for what they were made from.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

from pipeline.errors import UserError, one_line
from pipeline.files import file_sha256, inside, printable
from pipeline.store.records import (
    DamagedError,
    FileTable,
    Seconds,
    Sha256,
    StoredRecord,
    json_object,
    parse_record,
    read_file,
)
from pipeline.work.threads import in_order

MANIFEST = "manifest.json"
NFS_REMAINS = ".nfs"  # how NFS names a file that was deleted while a process still reads it
PACKAGES = (
    "flexseg", "torch", "diffusers", "transformers", "accelerate", "datasets", "controlnet-aux", "prefect",
    "numpy", "pillow", "scipy",
)  # fmt: skip


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("wanted a date and time with its time zone")
    return text


def _no_clashes(files: FileTable) -> FileTable:
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    if MANIFEST in files or not folders.isdisjoint(files):
        raise ValueError("wanted files, none of which is the manifest or another file's folder")
    return files


StageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Moment = Annotated[str, AfterValidator(_moment)]


class Manifest(StoredRecord):
    """What is known of a finished artifact."""

    stage: StageName
    version: int
    key: Sha256
    config: dict[str, Any]
    """The stage's own section."""
    differing: dict[str, Any] | None = None
    """What of it entered the key: what differs from the frozen defaults; None in manifests of flexseg 0.1, all of it.
    """
    inputs: dict[str, str]
    """Keys or fingerprints of what it was made from."""
    seconds: Seconds
    """How long all attempts took together."""
    started: Moment
    finished: Moment
    versions: dict[str, str]
    git_commit: str | None
    host: str
    platform: str
    hardware: str = "an older version"
    files: Annotated[FileTable, AfterValidator(_no_clashes)]
    digest: Sha256 | None = None
    """Hex sha256 of the canonical JSON of all other fields; None in manifests of flexseg 0.1."""

    def text(self) -> bytes:
        """The bytes of its file."""
        content = self.model_dump(exclude_unset=True)
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode()


def key_of(stage: str, version: int, config: object, inputs: Mapping[str, str]) -> str:
    """An artifact's key: hex sha256 over the canonical JSON of stage, version, config and input keys."""
    return canonical_digest([stage, version, config, dict(inputs)])


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's content with the digest that vouches for it."""
    content = {name: value for name, value in content.items() if name != "digest"}
    return {**content, "digest": canonical_digest(content)}


def parse_manifest(data: bytes) -> Manifest:
    """The manifest that the bytes of its file hold. DamagedError unless it is whole and vouches for itself."""
    content = json_object(data)
    try:
        whole = "digest" not in content or content == sealed(content)
    except (ValueError, RecursionError) as error:
        raise DamagedError("it holds values that no manifest has") from error
    if not whole:
        raise DamagedError("its content is not what its digest says")
    manifest = parse_record(Manifest, content)
    if manifest.digest is None and manifest.differing is not None:
        raise DamagedError("its digest is missing")
    keyed = manifest.config if manifest.differing is None else manifest.differing
    if manifest.key != key_of(manifest.stage, manifest.version, keyed, manifest.inputs):
        raise DamagedError("its key is not that of its stage, version, config and inputs")
    return manifest


def canonical_json(value: object) -> str:
    """The one JSON text of `value`: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_digest(value: object) -> str:
    """Hex sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_table(folder: Path) -> dict[str, dict[str, str | int]]:
    """`{relative path: {sha256, size}}` of every file under `folder`, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "size": path.stat().st_size}
        for path in files
    }


def provenance() -> dict[str, Any]:
    """Package versions, git commit and host: what could explain a difference between two runs."""
    return {
        "versions": _versions(),
        "git_commit": _git_commit(),
        "host": platform.node(),
        "platform": platform.platform(),
        "hardware": _hardware(),
    }


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`, whose files are not looked at. UserError if it cannot be used."""
    try:
        return parse_manifest(read_file(folder / MANIFEST))
    except DamagedError as error:
        raise _damaged(folder / MANIFEST, folder, str(error)) from error


def verify_artifact(folder: Path) -> Manifest:
    """The manifest of an artifact of which every byte was read: the files that it lists, no others, each with its size
    and sha256. UserError names the first damage."""
    manifest = read_manifest(folder)
    for path in everything_below(folder):
        name = path.relative_to(folder).as_posix()
        if name not in manifest.files and name != MANIFEST and not path.name.startswith(NFS_REMAINS):
            raise _damaged(path, folder, "it is not in the artifact's manifest")
    for reason in in_order(lambda name: _complaint(folder, name, manifest), manifest.files):
        if reason is not None:
            raise reason
    return manifest


def everything_below(folder: Path) -> Iterator[Path]:
    """All that is below a folder but folders: files, links (which are not followed), anything else."""
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())


def _complaint(folder: Path, name: str, manifest: Manifest) -> UserError | None:
    expected = manifest.files[name]
    try:
        path = inside(folder, name, through_links=False)
        if not path.is_file():
            return _damaged(path, folder, "it is missing")
        if (size := path.stat().st_size) != expected.size:
            return _damaged(path, folder, f"it has {size} bytes, its manifest says {expected.size}")
        if file_sha256(path) != expected.sha256:
            return _damaged(path, folder, "its content is not what its manifest's sha256 says")
    except UserError as error:
        return error
    except OSError as error:
        return _damaged(folder / name, folder, f"it cannot be read ({one_line(error)})")
    return None


def _damaged(path: Path, folder: Path, reason: str) -> UserError:
    return UserError(
        f"damaged artifact file {printable(path)}: {reason}; delete the folder {printable(folder)} and run again to"
        " rebuild it"
    )


def _hardware() -> str:
    """Processor and cores, and the GPUs where torch is in use."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    lines = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    parts = [f"{os.cpu_count()} cores of {lines[0] if lines else platform.machine()}"]
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        parts += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(parts)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def _git_commit() -> str | None:
    """The commit that this code was checked out from (`-dirty` if it was changed since), None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
