"""Manifests as the store writes them, for folders that tests make by hand."""

from typing import Any

from pipeline.store.manifest import key_of, sealed


def manifest_of(files: Any, **changes: Any) -> dict[str, Any]:
    """The content of a manifest that lists `files` and vouches for itself, whatever the changes."""
    stage, version, config, inputs = (
        changes.get(name, default)
        for name, default in {"stage": "generated", "version": 1, "config": {}, "inputs": {}}.items()
    )
    content = {
        "stage": stage,
        "version": version,
        "key": key_of(stage, version, config, inputs),
        "config": config,
        "inputs": inputs,
        "seconds": 1.0,
        "started": "2026-11-01T00:00:00+00:00",
        "finished": "2026-11-01T00:00:01+00:00",
        "versions": {},
        "git_commit": None,
        "host": "host",
        "platform": "Linux",
        "hardware": "2 cores",
        "files": files,
    }
    return sealed({**content, **changes})
