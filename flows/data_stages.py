"""The stages that look at the data, and what is checked of it before anything long is begun."""

from pathlib import Path

import numpy as np

from flows.domains import Domain, say
from flows.recipes import class_statistics_recipe, method_of
from flows.run import Run
from pipeline.data.datasets import Scene
from pipeline.data.statistics import (
    LabelCounts,
    Statistics,
    absent_classes,
    check_labeled,
    count_label,
    count_labels,
    label_warnings,
)
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact
from pipeline.work.threads import in_order

SAMPLED = 32
"""Label maps of a target that are looked at before it is evaluated on: a fraction of a second each at most."""


def check_images(domain: Domain) -> None:
    """The domain is more than label maps. Raises UserError. Single bad files are skipped and listed when it is read."""
    if domain.scenes[0].image is None:
        raise UserError(f"{domain.name}: training and evaluation need images: set 'images' of this data set")


def check_crop(run: Run, method: str) -> None:
    """Every image that a method trains on holds a crop, by its header. Raises UserError, with the file."""
    if run.config.data.toytown is None:
        config = run.config.training.of(method_of(run, method))
        run.source.check_crop(run.training_rows, config.crop, config.source_size)


def labels(run: Run) -> Artifact:
    """The class statistics of the source, before it is trained on. Says which pairs are left out of training, and what
    looks wrong in the label maps. UserError where there is nothing to train on."""
    run.render_world()
    check_images(run.source)
    scenes, used = run.source.scenes, set(run.training_rows)
    if left_out := [scene.id for row, scene in enumerate(scenes) if row not in used]:
        names = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        say(
            f"{run.source.name}: {len(left_out)} of {len(scenes)} scenes are left out of training, their image and"
            f" label differ in size: {names}"
        )
    artifact = class_statistics(run)
    training_pixels(run)
    return artifact


def class_statistics(run: Run) -> Artifact:
    """Class statistics (`pipeline.data.statistics`) of the source. Every label map is read for it: a bad one is found
    before long work. Says what looks wrong in them."""

    def build(folder: Path) -> None:
        run.render_world()
        height = run.config.generation.label_height if run.config.generation else None
        count_labels(run.source.scenes, height, run.progress).write(folder)

    artifact = run.store.get_or_build(*class_statistics_recipe(run), build)
    if run.config.data.toytown is None:
        found = Statistics.read(artifact.folder)
        absent = absent_classes(found.pixels)
        for warning in found.warnings:
            say(f"{run.source.name}: {warning}")
        if absent and len(absent) < found.pixels.shape[1]:
            say(f"{run.source.name}: no label map holds {', '.join(absent)}")
    return artifact


def warn_of_labels(domain: Domain) -> None:
    """Says what looks wrong in a sample of a target's label maps; `flexseg data check` looks at all of them.

    Files that cannot be read are left to the evaluation, which skips and lists them.
    """
    scenes = domain.scenes[:: max(1, len(domain.scenes) // SAMPLED)]
    counted = [(scene, counts) for scene, counts in zip(scenes, in_order(_counted, scenes), strict=True) if counts]
    for warning in label_warnings([scene for scene, _ in counted], [counts for _, counts in counted]):
        say(f"{domain.name}, {len(counted)} of its label maps: {warning}")


def _counted(scene: Scene) -> LabelCounts | None:
    try:
        return count_label(scene)
    except UserError:
        return None


def training_pixels(run: Run) -> np.ndarray:
    """(N, 19) int64: px of each class in each label map that is trained on. UserError where there is not one."""
    pixels = Statistics.read(class_statistics(run).folder).pixels[run.training_rows]
    check_labeled(run.source.name, pixels)
    return pixels
