"""A preset as it is rehearsed: all of it but for counts, steps, iterations and paths."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.rehearsal.networks import CONTROLNET, ENCODER, PRIOR
from pipeline.config.experiment import ExperimentConfig, load_config
from pipeline.config.generation import PLAIN
from pipeline.files import written_whole


class Places(NamedTuple):
    """Folders of a rehearsal."""

    work: Path

    @property
    def data(self) -> Path:
        """The data sets, each in a folder of its own."""
        return self.work / "data"

    @property
    def networks(self) -> Path:
        """The random networks."""
        return self.work / "networks"

    @property
    def store(self) -> Path:
        """The artifacts."""
        return self.work / "cache"


def write_config(preset: str, places: Places, *, whole: bool, half: bool) -> Path:
    """The config file of a preset's rehearsal, see `changes`."""
    path = places.work / f"{preset}.yaml"
    content = {"base": preset, "name": preset, **changes(load_config(preset), places, whole=whole, half=half)}
    with written_whole(path, durable=False) as unfinished:
        unfinished.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def changes(config: ExperimentConfig, places: Places, *, whole: bool, half: bool) -> dict[str, Any]:
    """What a rehearsal changes of a preset, as a config's content: one image in one step, one seed, one iteration.

    whole: score all targets on all their images, and train for two iterations with a validation; else one image of the
    last target. half: keep bf16, which processors without it compute very slowly.
    """
    assert config.data.source is not None and config.generation is not None
    targets = [{"root": str(places.data / target.root.name)} for target in config.data.targets]
    networks = {"prior": str(places.networks / PRIOR), "controlnet": str(places.networks / CONTROLNET)}
    content: dict[str, Any] = {
        "data": {
            "source": {"root": str(places.data / config.data.source.root.name)},
            "targets": {str(place): target for place, target in enumerate(targets)},
        },
        "generation": {
            "weights": networks,
            "counts": dict.fromkeys(config.generation.counts, 0) | {PLAIN: 1},
            "steps": 1,
        },
        "training": {
            "seeds": [0],
            "iterations": 2 if whole else 1,
            "validation_scenes": int(whole),
            "network": {"pretrained": str(places.networks / ENCODER)},
        },
        "evaluation": {},
        "machine": {"device": "cpu", "store": str(places.store), "output": str(places.work / "runs")},
    }
    if config.training.source_pool is not None:
        content["training"]["source_pool"] = {"pairs": 4}
    if not whole:
        last = config.data.targets[-1]
        content["data"]["targets"] = [last.model_dump(mode="json") | targets[-1] | {"take": [0, 1]}]
        content["evaluation"]["size"] = {name: None for name in config.evaluation.size if name != last.name}
    for section in ("generation", "training", "evaluation"):
        if not half and getattr(getattr(config, section), "precision", None) == "bf16":
            content[section]["precision"] = "fp32"
    return content


def computes_bf16() -> bool:
    """Whether this processor has instructions for bf16."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
