"""Further images: what a generated data set and its regenerations hold already, and how more of them are asked for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.recipes import GENERATED, generated_recipe
from flows.run import Run
from pipeline.errors import UserError
from pipeline.store.artifacts import KEY_DIGITS, ArtifactStore
from pipeline.store.inventory import manifests
from pipeline.store.manifest import MANIFEST, Manifest
from pipeline.store.places import is_digits
from pipeline.store.shared_artifact import SharedArtifact

MAY_DIFFER = {"counts", "after", "classes", "shard_size"}
"""Fields of the generation section in which a data set and its regenerations differ."""


def asked(run: Run, counts: Mapping[str, int], classes: Mapping[str, float]) -> list[str]:
    """Overrides under which the config of `run` asks for further images alone: `counts` of each condition, numbered
    behind those that the config and its finished regenerations have, so that no request is drawn twice.

    Without counts as many as the config has; `classes` go over the config's. UserError where no image is asked for.
    """
    own = run.generation.counts
    wanted = counts or own
    if not any(wanted.values()):
        raise UserError("regenerate asks for 0 images: give at least one condition a count, for instance night=200")
    section = {"counts": dict.fromkeys(own, 0) | dict(wanted), "after": existing(run), "classes": dict(classes)}
    return [f"generation.{name}={json.dumps(value)}" for name, value in section.items()]


def existing(run: Run) -> dict[str, int]:
    """How many images of each condition there are: the config's own, made or not, and its finished regenerations'."""
    section = run.generation
    made = [manifest.config for manifest in _sets(run)]
    asked_for = [(section.counts, section.after), *((config["counts"], config["after"]) for config in made)]
    ends: dict[str, int] = {}
    for counts, after in asked_for:
        for condition, count in counts.items():
            ends[condition] = max(ends.get(condition, 0), after.get(condition, 0) + count)
    return ends


def regenerations(run: Run) -> list[Path]:
    """Folders of the finished regenerations of the config, the oldest first."""
    own = run.key(generated_recipe(run))
    made = [manifest for manifest in _sets(run) if manifest.key != own]

    def age(manifest: Manifest) -> tuple[str, int, str]:
        # times are whole seconds; within one, what was numbered behind the other came later
        return manifest.finished, sum(manifest.config["after"].values()), manifest.key

    return [_folder(run.store, manifest.key) for manifest in sorted(made, key=age)]


def _sets(run: Run) -> list[Manifest]:
    """Manifests of the generated data sets of the store that differ from the config's in MAY_DIFFER alone."""
    recipe = generated_recipe(run)
    return [
        manifest
        for manifest in _manifests(run.store)
        if (manifest.version, manifest.inputs) == (GENERATED.version, recipe.inputs)
        and _fixed(manifest.differing or {}) == _fixed(recipe.config.differing)
    ]


def _manifests(store: ArtifactStore) -> list[Manifest]:
    """The manifests of all finished generated data sets, on this machine and in the remote store."""
    found = {folder.name: manifest for folder, manifest in manifests(store.root, GENERATED.name).items()}
    if store.remote is not None:
        for path in store.remote.sizes(GENERATED.name):
            _, name, *rest = path.split("/")
            if rest == [MANIFEST] and is_digits(name) and name not in found:
                manifest = SharedArtifact(store.remote, f"{GENERATED.name}/{name}", name).manifest()
                found |= {} if manifest is None else {name: manifest}
    return list(found.values())


def _folder(store: ArtifactStore, key: str) -> Path:
    """Where the data set is on this machine, fetched if it is not."""
    folder = store.root.absolute() / GENERATED.name / key[:KEY_DIGITS]
    return folder if folder.exists() else store.open(key).folder


def _fixed(differing: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in differing.items() if name not in MAY_DIFFER}
