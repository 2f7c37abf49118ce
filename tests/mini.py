"""A miniature experiment: toy town of a few small pictures, a generator of random weights, four training iterations."""

from pathlib import Path
from typing import Any

import yaml

MINI: dict[str, Any] = {
    "data": {"toytown": {"source_images": 8, "target_images": 2, "size": [64, 128]}},
    "generation": {
        "counts": {"plain": 2, "foggy": 2},
        "size": [32, 64],
        "steps": 2,
        "shard_size": 2,
        "rare_class_pixels": 20,
    },
    "training": {
        "seeds": [0],
        "network": {
            "pretrained": None,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "heads": [1, 1, 2, 2],
            "channels": 16,
        },
        "iterations": 4,
        "batch_size": 2,
        "source_size": None,
        "crop": [32, 64],
        "block": 2,
        "checkpoint_every": 2,
        "validation_every": 4,
        "validation_scenes": 2,
        "rare_class_pixels": 20,
        "rare_class_crop": 10,
        "optimizer": {"warmup": 1},
    },
    "evaluation": {"keep_predictions": 1},
    "machine": {"device": "cpu", "workers": 1},  # a process more costs 20 s of imports
}


def write_mini(folder: Path, weights: Path, **sections: Any) -> Path:
    """Writes the miniature's config over which `sections` are laid, with its store and its runs in `folder`."""
    content = {**MINI, **sections}
    if content["generation"] is not None:
        content["generation"] = {**content["generation"], "weights": str(weights)}
    places = {"store": str(folder / "store"), "output": str(folder / "runs")}
    content["machine"] = {**content["machine"], **places}
    path = folder / "mini.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
