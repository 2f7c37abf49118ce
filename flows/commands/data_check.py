"""`flexseg data check`: what is there of each data set, what is wrong with it, and where to get what is missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flows.run import Run
from pipeline.config.data import Dataset
from pipeline.data.datasets import Scene, check_pair, find_scenes, load_image, load_label
from pipeline.data.labels import IGNORE, NUM_CLASSES
from pipeline.errors import UserError
from pipeline.work.threads import in_order

SITES = {
    "gta": "GTA5 ('Playing for Data', TU Darmstadt): download.visinf.tu-darmstadt.de/data/from_games, the ten parts of"
    " images and of labels",
    "cityscapes": "Cityscapes: cityscapes-dataset.com, packages leftImg8bit_trainvaltest and gtFine_trainvaltest",
    "bdd100k": "BDD100K: bdd-data.berkeley.edu, packages '10K Images' and 'Segmentation'",
    "mapillary": "Mapillary Vistas: mapillary.com/dataset/vistas, version 1.2",
    "acdc": "ACDC: acdc.vision.ee.ethz.ch, packages rgb_anon_trainvaltest and gt_trainval",
    "dark-zurich": "Dark Zurich (ETH Zurich, 'Guided Curriculum Model Adaptation'): trace.ethz.ch, package"
    " Dark_Zurich_val_anon",
}
"""Where each layout's data set is given out, after registration. None of them may be passed on by us."""

PUBLISHED = {
    ("gta", None): 24966,
    ("cityscapes", "val"): 500,
    ("bdd100k", "val"): 1000,
    ("mapillary", "val"): 2000,
    ("acdc", "val"): 406,
    ("dark-zurich", "val"): 50,
}
"""Scenes that a split has when it is complete."""


class Finding(NamedTuple):
    """One data set: what was found, and one line per thing that is wrong."""

    name: str
    scenes: int
    expected: int | None
    sizes: Sequence[tuple[int, int]]
    """(height, width) px: the smallest and the largest, or the only one."""
    conditions: Mapping[str, int]
    pixels: np.ndarray
    """(19,) labeled px per class."""
    problems: Sequence[str]


class _Read(NamedTuple):
    """One scene that was read: its size and class counts, or what is wrong with it."""

    size: tuple[int, int] | None
    pixels: np.ndarray
    problem: str | None


def check_data(run: Run) -> list[Finding]:
    """Reads every file of every data set that the config names; what is wrong with one does not stop the others."""
    run.render_world()
    source, targets = run.datasets
    if source is None and not targets:
        raise UserError("the config names no data: set data.source, data.targets or data.toytown")
    named = [*([source] if source else []), *targets]
    return [_check(run, dataset, needs_images=dataset is not source) for dataset in named]


def _check(run: Run, dataset: Dataset, *, needs_images: bool) -> Finding:
    real = run.config.data.toytown is None
    expected = PUBLISHED.get((dataset.layout, None if dataset.layout == "gta" else dataset.split)) if real else None
    try:
        scenes = find_scenes(dataset, incomplete=True)
    except UserError as error:
        where = f"; get it from {SITES[dataset.layout]}" if dataset.layout in SITES and real else ""
        return Finding(dataset.name, 0, expected, [], {}, np.zeros(NUM_CLASSES, np.int64), [f"{error}{where}"])
    reading = run.progress(in_order(_read, scenes), total=len(scenes), description=dataset.name)
    read = list(reading)
    problems = [one.problem for one in read if one.problem is not None]
    if needs_images and scenes[0].image is None:
        problems.insert(0, f"{dataset.name}: a target needs images: set 'images' of this data set")
    sizes = {one.size for one in read if one.size}
    return Finding(
        dataset.name,
        len(scenes),
        expected,
        sorted({min(sizes), max(sizes)}) if sizes else [],
        Counter(scene.condition for scene in scenes if scene.condition),
        np.sum([one.pixels for one in read], axis=0),
        problems,
    )


def _read(scene: Scene) -> _Read:
    nothing = np.zeros(NUM_CLASSES, np.int64)
    try:
        label = load_label(scene.label, scene.ids)
        if scene.image is not None:
            check_pair(scene)
            load_image(scene.image)
    except UserError as error:
        return _Read(None, nothing, str(error))
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)[:NUM_CLASSES]
    return _Read((label.shape[0], label.shape[1]), counts, None)
