"""How fast images will be painted, from what was measured; never a guess."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flows.recipes import GENERATED, generated_recipe
from flows.run import Run
from generation.plan import DEPENDS_ON
from pipeline.requests import GenerationRequest
from pipeline.store.inventory import manifests
from pipeline.store.manifest import provenance
from pipeline.work.progress import duration
from pipeline.work.workers import worker_devices

SLOWS_NOTHING = (DEPENDS_ON - {"size"}) | {"shard_size"}
"""Fields of the generation section that do not change how long an image takes."""


class Rate(NamedTuple):
    """Images per second, and how that is known."""

    images: float
    source: str


def known_rate(run: Run) -> Rate | None:
    """The rate at which the newest data set of the store was made, among those painted on this host by the same weights
    and settings. The time for planning and loading is in it."""
    wanted = _settings(generated_recipe(run).config.differing, run.weights_key)
    host = provenance()["host"]
    like = [
        manifest
        for manifest in manifests(run.store.root, GENERATED.name).values()
        if (manifest.version, manifest.host) == (GENERATED.version, host)
        and _settings(manifest.differing or {}, manifest.inputs["weights"]) == wanted
    ]
    if not like:
        return None
    newest = max(like, key=lambda manifest: manifest.finished)
    images = sum(newest.config["counts"].values())
    return Rate(images / newest.seconds, f"{images} images that were painted here on {newest.finished[:10]}")


def measured_rate(run: Run, requests: Sequence[GenerationRequest]) -> Rate:
    """The rate of all workers together, from one batch that one of them paints now."""
    from generation.shards import measure_seconds

    section, machine = run.generation, run.config.machine
    shards = math.ceil(len(requests) / section.shard_size)
    workers = len(worker_devices(machine, shards))
    batch = requests[: machine.generation_batch]
    seconds = measure_seconds(section, batch, run.source.scenes, machine)
    together = f", times {workers} workers" if workers > 1 else ""
    return Rate(workers * len(batch) / seconds, f"{len(batch)} images in {duration(seconds)} now{together}")


def _settings(differing: Mapping[str, Any], weights: str) -> dict[str, Any]:
    return {name: value for name, value in differing.items() if name not in SLOWS_NOTHING} | {"weights": weights}
