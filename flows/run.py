"""One use of a config: the data that it names, the store, and what has been made or found so far."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from flows.domains import Domain, scenes_of
from flows.frozen import settings
from flows.segmenters import find_model
from generation.folders import weights_fingerprint
from generation.lora import lora_fingerprint
from pipeline.config.data import Dataset
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.generation import GenerationConfig
from pipeline.data.datasets import find_scenes, toytown_datasets
from pipeline.data.fingerprints import FOLDER, FileDigests
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact, ArtifactStore, Event, Stage
from pipeline.store.building import Settings
from pipeline.store.manifest import canonical_digest, file_table
from pipeline.toytown import write_world
from pipeline.work.progress import Track, announce, duration, silent
from training.pools import data_set_fingerprint
from training.pretrained_encoders import encoder_commit, encoder_folder

WORLD = Stage("world", 1)


class Recipe(NamedTuple):
    """What an artifact is made from: all that its key depends on."""

    stage: Stage
    config: Settings
    inputs: Mapping[str, str]


class NothingBuiltError(Exception):
    """An artifact is missing in a run that builds nothing."""


class Run:
    """One use of a config: its store, how progress is drawn, and what has been made or found so far."""

    def __init__(self, config: ExperimentConfig, progress: Track = silent) -> None:
        self.config = config
        self.progress = progress
        self.builds = True
        """Whether what is missing is built; if not, NothingBuiltError is raised instead."""
        machine = config.machine
        self.store = ArtifactStore(machine.store, self._note, remote=machine.remote, lease=machine.lease)
        self.history: list[tuple[Event, Artifact]] = []
        self._encoder_keys: dict[str, str] = {}
        self._world: Artifact | None = None
        self._rendered = False

    def key(self, recipe: Recipe) -> str:
        """The key of what a recipe makes, made or not."""
        return self.store.key(*recipe)

    @cached_property
    def world_recipe(self) -> Recipe | None:
        """What toy town is rendered from; None where the config names data on disk."""
        town = self.config.data.toytown
        return None if town is None else Recipe(WORLD, settings(WORLD, town), {})

    @property
    def world(self) -> Artifact | None:
        """Toy town if it has been rendered; None too where the config names data on disk."""
        if self._world is None and self.world_recipe is not None:
            self._world = self.store.find(*self.world_recipe)
        return self._world

    def render_world(self) -> Artifact | None:
        """Toy town, rendered unless it was before; None where the config names data on disk."""
        town, recipe = self.config.data.toytown, self.world_recipe
        if town is None or recipe is None:
            return None

        def build(folder: Path) -> None:
            write_world(town, folder, progress=self.progress)

        if not self._rendered:
            self._world, self._rendered = self.store.get_or_build(*recipe, build), True
        return self._world

    @cached_property
    def source(self) -> Domain:
        """The domain that is trained on."""
        dataset = self.datasets[0]
        if dataset is None:
            raise UserError(
                "the config names no data to train on: set data.source (a labeled data set) or data.toytown"
            )
        return self._domain(dataset)

    @cached_property
    def targets(self) -> tuple[Domain, ...]:
        """The domains that are only evaluated on."""
        datasets = self.datasets[1]
        if not datasets:
            raise UserError(
                "the config names no data to evaluate on: set data.targets (labeled data sets) or data.toytown"
            )
        return tuple(self._domain(dataset, incomplete=True) for dataset in datasets)

    @cached_property
    def training_rows(self) -> list[int]:
        """Places in `source.scenes` of those that can be trained on: image and label have one size.

        A few pairs of GTA5 have not. UserError if images are missing or no pair is left.
        """
        if self.config.data.toytown is not None:
            return list(range(self.config.data.toytown.source_images))
        return self.source.paired_rows()

    @cached_property
    def digests(self) -> FileDigests:
        """Content of files, remembered in the store's folder."""
        return FileDigests(self.config.machine.store / FOLDER, self.progress)

    @property
    def has_images(self) -> bool:
        """Whether the source has photographs beside its label maps."""
        return self.config.data.toytown is not None or self.source.scenes[0].image is not None

    @property
    def has_targets(self) -> bool:
        """Whether the config names data to evaluate on."""
        return bool(self.datasets[1])

    @cached_property
    def weights_key(self) -> str:
        """Fingerprint of the generator's weights. UserError if they are not there."""
        return weights_fingerprint(self.generation.weights)

    @cached_property
    def lora_key(self) -> str | None:
        """Fingerprint of the generator's LoRA, None without one. UserError if it is not there."""
        lora = self.generation.lora
        return None if lora is None else lora_fingerprint(lora)

    def encoder_key(self, name: str | None) -> str | None:
        """Fingerprint of the folder of a pretrained encoder, or the commit of the Hub's repository that is in its
        cache (where it is by the time that a run was checked); None for random weights, and before it is fetched."""
        if name is None:
            return None
        if (folder := encoder_folder(name)) is None:
            return encoder_commit(name)
        if name not in self._encoder_keys:
            self._encoder_keys[name] = canonical_digest(file_table(folder))
        return self._encoder_keys[name]

    @cached_property
    def generated_keys(self) -> dict[str, str]:
        """Fingerprints of the data sets in data.generated, by their place in it. UserError if one is not there."""
        folders = self.config.data.generated
        return {f"generated {k}": data_set_fingerprint(folder, self.digests) for k, folder in enumerate(folders)}

    @cached_property
    def other_models(self) -> dict[str, tuple[str, Path]]:
        """(fingerprint, folder) of the models in `evaluation.models`. UserError if one is not to be had or has a
        method's name."""
        models = self.config.evaluation.models
        if taken := set(models) & set(self.config.training.methods):
            raise UserError(f"evaluation.models: {min(taken)!r} is a method's name already; choose another name")
        return {name: find_model(self.store, place) for name, place in models.items()}

    @property
    def generation(self) -> GenerationConfig:
        """The generation section. UserError if the config has none."""
        if self.config.generation is None:
            raise UserError("the config has no 'generation' section: add one, at least generation: {weights: toy-town}")
        return self.config.generation

    @cached_property
    def datasets(self) -> tuple[Dataset | None, tuple[Dataset, ...]]:
        """The source and the targets that the config names, or toy town's."""
        data = self.config.data
        return (
            (data.source, data.targets)
            if self.world_recipe is None
            else toytown_datasets(self.store.folder(*self.world_recipe))
        )

    def _domain(self, dataset: Dataset, *, incomplete: bool = False) -> Domain:
        if self.world_recipe is not None:
            return Domain(dataset.name, partial(find_scenes, dataset), self.digests, self.key(self.world_recipe))
        return Domain(dataset.name, partial(scenes_of, dataset, incomplete=incomplete), self.digests)

    def _note(self, event: Event, stage: Stage, artifact: Artifact | None) -> None:
        if artifact is not None:
            self.history.append((event, artifact))
            if event == "built":
                announce(f"stage {stage.name}: done, took {duration(artifact.manifest.seconds)}")
        elif not self.builds:
            raise NothingBuiltError(stage.name)
        elif event == "building":
            announce(f"stage {stage.name}: begins")
        elif event == "waiting":
            print(f"waiting for another process that makes the same {stage.name} artifact", file=sys.stderr)


_handed: ContextVar[Run | None] = ContextVar("handed", default=None)


@contextmanager
def handed_over(run: Run) -> Iterator[None]:
    """Within it, a flow that is started in this process takes this run, whose data and weights were checked, instead of
    looking for all of them again: a flow's own parameters must be such as a form can have."""
    token = _handed.set(run)
    try:
        yield
    finally:
        _handed.reset(token)


def taken_over() -> Run | None:
    """The run that was handed over, with nothing in its history; None where the flow was started by a server."""
    run = _handed.get()
    if run is not None:
        run.history.clear()
    return run
