"""In what colors label maps are painted for a ControlNet that takes pictures."""

import numpy as np

from pipeline.config.weights import Palette
from pipeline.data.labels import CLASS_NAMES, CLASSES

ADE20K = {
    "road": (140, 140, 140),
    "sidewalk": (235, 255, 7),
    "building": (180, 120, 120),
    "wall": (120, 120, 120),
    "fence": (255, 184, 6),
    "pole": (51, 0, 255),
    "traffic light": (41, 0, 255),
    "traffic sign": (255, 5, 153),
    "vegetation": (4, 200, 3),
    "terrain": (4, 250, 7),
    "sky": (6, 230, 230),
    "person": (150, 5, 61),
    "rider": (150, 5, 61),
    "car": (0, 102, 200),
    "truck": (255, 0, 20),
    "bus": (255, 0, 245),
    "train": (255, 0, 245),
    "motorcycle": (163, 0, 255),
    "bicycle": (255, 245, 0),
}
"""The Cityscapes classes in the colors of ADE20K's 150 classes, as its SceneParse150 toolkit has them (its
color150.mat; lllyasviel/sd-controlnet-seg was trained on these). Which class stands for one that ADE20K has not, or
calls otherwise, is ours: signboard for traffic sign, tree for vegetation, grass for terrain, minibike for motorcycle,
person for rider, bus for train."""


def colors(palette: Palette | None) -> np.ndarray | None:
    """(256, 3) uint8: the color of each train id, black for what is ignored; None where no palette is stated."""
    if palette is None:
        return None
    table = {"cityscapes": {c.name: c.color for c in CLASSES}, "ade20k": ADE20K}
    chosen = table[palette] if isinstance(palette, str) else palette
    result = np.zeros((256, 3), np.uint8)
    result[: len(CLASS_NAMES)] = [chosen[name] for name in CLASS_NAMES]
    return result
