"""The manifest of an artifact: what it was made from, on what, in how long, and the sha256 of every file."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import file_sha256

MANIFEST = "manifest.json"
PACKAGES = (
    "flexseg", "torch", "diffusers", "transformers", "accelerate", "datasets", "controlnet-aux", "prefect",
    "numpy", "pillow", "scipy",
)  # fmt: skip


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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the artifact in `folder`, unverified. UserError if there is none that can be read."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder / MANIFEST, folder, "it is missing or cannot be read") from error
    return manifest


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Every file that the manifest lists has its size and sha256; else a UserError that names the file."""
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise _damaged(path, folder, "it is missing")
        if path.stat().st_size != expected["size"]:
            raise _damaged(path, folder, f"it has {path.stat().st_size} bytes, its manifest says {expected['size']}")
        if file_sha256(path) != expected["sha256"]:
            raise _damaged(path, folder, "its content is not what its manifest's sha256 says")


def _damaged(path: Path, folder: Path, reason: str) -> UserError:
    return UserError(f"damaged artifact file {path}: {reason}; delete the folder {folder} and run again to rebuild it")


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
