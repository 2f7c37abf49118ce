"""`flexseg data check`: what is there of each data set, what is wrong with it, and where to get what is missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flows.run import Run
from pipeline.config.data import Dataset
from pipeline.data.datasets import Listing, Scene, check_pair, list_scenes, without_partner
from pipeline.data.image_files import read_image
from pipeline.data.labels import NUM_CLASSES
from pipeline.data.layouts import published_scenes
from pipeline.data.statistics import LabelCounts, count_label, label_warnings
from pipeline.errors import UserError
from pipeline.work.threads import CORES, in_order

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
    """One scene that was read: its counts, or what is wrong with it."""

    scene: Scene
    counts: LabelCounts | None
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
    site = f"; get it from {SITES[dataset.layout]}" if dataset.layout in SITES and real else ""
    try:
        listing = list_scenes(dataset)
    except UserError as error:
        published = published_scenes(dataset.layout, dataset.split) if real else None
        return Finding(dataset.name, 0, published, [], {}, np.zeros(NUM_CLASSES, np.int64), [f"{error}{site}"])
    published = listing.published if real else None
    scenes = listing.scenes
    reading = run.progress(in_order(_read, scenes, threads=CORES), total=len(scenes), description=dataset.name)
    read = list(reading)
    good = [(one.scene, one.counts) for one in read if one.counts is not None]
    warnings = label_warnings([scene for scene, _ in good], [counts for _, counts in good])
    problems = [*_problems(listing, published, site), *(one.problem for one in read if one.problem is not None)]
    if needs_images and scenes and scenes[0].image is None:
        problems.insert(0, f"{dataset.name}: a target needs images: set 'images' of this data set")
    sizes = {counts.size for _, counts in good}
    return Finding(
        dataset.name,
        listing.found,
        published,
        sorted({min(sizes), max(sizes)}) if sizes else [],
        Counter(scene.condition for scene in [*scenes, *listing.unlabeled] if scene.condition),
        np.sum([counts.pixels for _, counts in good] or [np.zeros(NUM_CLASSES, np.int64)], axis=0),
        [*problems, *warnings],
    )


def _problems(listing: Listing, published: int | None, site: str) -> list[str]:
    """What has no partner, and what is missing of a split, a line each."""
    unlabeled, imageless = without_partner(listing)
    problems = [*unlabeled, *imageless]
    if published is not None and listing.found < published:
        problems.insert(0, f"incomplete: {listing.found:,} of the {published:,} scenes of this split are there{site}")
    return problems


def _read(scene: Scene) -> _Read:
    try:
        counts = count_label(scene)
        if scene.image is not None:
            check_pair(scene)
            read_image(scene.image)
    except UserError as error:
        return _Read(scene, None, str(error))
    return _Read(scene, counts, None)
