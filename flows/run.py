"""One use of a config: the data that it names, the store, and what has been made or found so far."""

import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from generation.folders import weights_fingerprint
from pipeline.config.data import Dataset
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.generation import GenerationConfig
from pipeline.datasets import Scene, find_scenes, fingerprint, toytown_datasets
from pipeline.errors import UserError
from pipeline.progress import Track, silent
from pipeline.store import Artifact, ArtifactStore, Config, Event, Stage
from pipeline.toytown import write_world

WORLD = Stage("world", 1)


class Recipe(NamedTuple):
    """What an artifact is made from: all that its key depends on."""

    stage: Stage
    config: Config
    inputs: Mapping[str, str]


class Domain(NamedTuple):
    """A data set with its scenes and the key that stands for their content."""

    name: str
    scenes: list[Scene]
    key: str


class Run:
    """One use of a config: its store, how progress is drawn, and what has been made or found so far."""

    def __init__(self, config: ExperimentConfig, progress: Track = silent) -> None:
        self.config = config
        self.progress = progress
        self.store = ArtifactStore(config.machine.store, self._note)
        self.history: list[tuple[Event, Artifact]] = []

    def key(self, recipe: Recipe) -> str:
        """The key of what a recipe makes, made or not."""
        return self.store.key(*recipe)

    @cached_property
    def world(self) -> Artifact | None:
        """Toy town, rendered; None where the config names data on disk."""
        town = self.config.data.toytown
        if town is None:
            return None

        def build(folder: Path) -> None:
            write_world(town, folder, progress=self.progress)

        return self.store.get_or_build(*Recipe(WORLD, town, {}), build)

    @cached_property
    def source(self) -> Domain:
        """The domain that is trained on."""
        dataset = self._datasets[0]
        if dataset is None:
            raise UserError(
                "the config names no data to train on: set data.source (a labeled data set) or data.toytown"
            )
        return self._domain(dataset)

    @cached_property
    def targets(self) -> tuple[Domain, ...]:
        """The domains that are only evaluated on."""
        datasets = self._datasets[1]
        if not datasets:
            raise UserError(
                "the config names no data to evaluate on: set data.targets (labeled data sets) or data.toytown"
            )
        return tuple(self._domain(dataset) for dataset in datasets)

    @property
    def has_targets(self) -> bool:
        """Whether the config names data to evaluate on."""
        return bool(self._datasets[1])

    @cached_property
    def weights_key(self) -> str:
        """Fingerprint of the generator's weights. UserError if they are not there."""
        return weights_fingerprint(self.generation.weights)

    @property
    def generation(self) -> GenerationConfig:
        """The generation section. UserError if the config has none."""
        if self.config.generation is None:
            raise UserError("the config has no 'generation' section: add one, at least generation: {weights: toy-town}")
        return self.config.generation

    @cached_property
    def _datasets(self) -> tuple[Dataset | None, tuple[Dataset, ...]]:
        data = self.config.data
        return toytown_datasets(self.world.folder) if self.world else (data.source, data.targets)

    def _domain(self, dataset: Dataset) -> Domain:
        scenes = find_scenes(dataset)
        return Domain(dataset.name, scenes, self.world.key if self.world else fingerprint(scenes))

    def _note(self, event: Event, stage: Stage, artifact: Artifact | None) -> None:
        if artifact is not None:
            self.history.append((event, artifact))
        elif event == "waiting":
            print(f"waiting for another process that makes the same {stage.name} artifact", file=sys.stderr)
