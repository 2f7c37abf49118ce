"""Scores some scenes of a domain with a `predict` callable: the unit that an evaluation is divided into.

Reading files, predicting and counting overlap: threads do the first and the last, and on the CPU the second too. A file
that cannot be used does not stop the others: it is skipped and listed with its reason, and the caller tells the user by
its exit code.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.counts import PixelCounts, stack
from evaluation.inference import Predict, PredictedLabels, input_size, same_size
from evaluation.metrics import LabelMap, count
from evaluation.parts import ScoredPart, write_part
from evaluation.resizing import Size
from evaluation.schema import SkippedScene
from pipeline.config.evaluation import EvaluationConfig
from pipeline.data.datasets import Scene, load_pair
from pipeline.data.pictures import label_png
from pipeline.errors import UserError
from pipeline.work.threads import THREADS, in_order, one_thread
from pipeline.work.units import Make

LoadPredict = Callable[[str, int], Predict]
"""load(device, batch_size): the `predict` of a segmenter on that device, which is given at most `batch_size` images (or
sliding windows) at once. Sent to processes, so it must pickle."""


class Loaded(NamedTuple):
    """One scene's pixels: (H,W,3) and (H,W) uint8."""

    scene: Scene
    image: NDArray[np.uint8]
    label: LabelMap


class Task(NamedTuple):
    """Scenes of one domain that are scored together; `kept` are the ids whose predictions become pictures."""

    domain: str
    scenes: Sequence[Scene]
    kept: frozenset[str]


class Scored(NamedTuple):
    """One scene's counts, and its prediction as a PNG file if it is kept."""

    scene: Scene
    size: Size
    counts: PixelCounts
    picture: bytes | None


def load_scorer(load_predict: LoadPredict, config: EvaluationConfig, batch_size: int, device: str) -> Make:
    """Loads the segmenter; what comes back scores a `Task` into a file, one item per scene.

    At most `batch_size` images are seen at once: on a GPU in one batch, on the CPU one by one in as many threads as
    torch would use. The file's bytes do not depend on the number of threads.
    """
    on_cpu = device == "cpu"
    predict = load_predict(device, 1 if on_cpu else batch_size)
    threads = min(torch.get_num_threads(), batch_size) if on_cpu else 1

    def score(task: Task, path: Path) -> Iterator[None]:
        # A pipeline: threads read ahead, neighbors of one size are predicted together, threads count what is predicted.
        # Every step keeps the order of the scenes, so the part's bytes do not depend on who was faster.
        scorer = _Scorer(task, config, predict)
        loaded = in_order(load_or_skip, task.scenes, ahead=THREADS + batch_size)
        skipped: list[SkippedScene] = []
        batches = same_size(_usable(loaded, skipped), 1 if on_cpu else batch_size, _size)
        scored = []
        with one_thread():  # several predict side by side on the CPU; each sum is then taken in one order
            predicted: Iterable[list[tuple[Loaded, PredictedLabels]]] = map(scorer.predicted, batches)
            if threads > 1:
                predicted = in_order(scorer.predicted, batches, ahead=threads - 1, threads=threads)
            pairs = (pair for batch in predicted for pair in batch)
            for item in in_order(scorer.counted, pairs, ahead=THREADS + batch_size):
                scored.append(item)
                yield
        write_part(scorer.part(scored, skipped), path)
        # Skipped scenes are items of the progress bar too; they are told once the part with their reasons is written.
        yield from [None] * len(skipped)

    return score


class _Scorer(NamedTuple):
    """A task and what it is scored by."""

    task: Task
    config: EvaluationConfig
    predict: Predict

    def predicted(self, batch: Sequence[Loaded]) -> list[tuple[Loaded, PredictedLabels]]:
        """Each item of a batch with its prediction."""
        torch.set_num_threads(1)  # a thread's first call would else take as many as there are cores
        images = np.stack([item.image for item in batch])
        size = input_size(self.config, self.task.domain, _size(batch[0]))
        labels, confidence = self.predict(images, size)
        return [
            (item, PredictedLabels(labels[k], None if confidence is None else confidence[k]))
            for k, item in enumerate(batch)
        ]

    def counted(self, item: tuple[Loaded, PredictedLabels]) -> Scored:
        """Counts one prediction, on the device where it is, and keeps it as a picture if it is to be kept."""
        loaded, prediction = item
        scene = loaded.scene
        labels = torch.as_tensor(prediction.labels)
        truth = torch.tensor(loaded.label, device=labels.device)
        confidence = None if prediction.confidence is None else torch.as_tensor(prediction.confidence)
        try:
            counts = count(labels, truth, self.config.widths, confidence)
        except ValueError as error:
            reason = f"{self.task.domain}, {scene.id}: {error}; this segmenter cannot be scored"
            raise UserError(reason) from error
        picture = label_png(labels.cpu().numpy()) if scene.id in self.task.kept else None
        return Scored(scene, _size(loaded), counts, picture)

    def part(self, scored: Sequence[Scored], skipped: Sequence[SkippedScene]) -> ScoredPart:
        """What is written down."""
        rows = [(item.scene.id, item.scene.condition, item.counts) for item in scored]
        pictures = {item.scene.id: item.picture for item in scored if item.picture is not None}
        return ScoredPart(stack(rows, len(self.config.widths)), {item.size for item in scored}, pictures, skipped)


def _size(loaded: Loaded) -> Size:
    return loaded.label.shape[0], loaded.label.shape[1]


def _usable(loaded: Iterable[Loaded | SkippedScene], skipped: list[SkippedScene]) -> Iterator[Loaded]:
    """What can be used; the rest goes to `skipped`."""
    for item in loaded:
        if isinstance(item, Loaded):
            yield item
        else:
            skipped.append(item)


def load_or_skip(scene: Scene) -> Loaded | SkippedScene:
    """The scene's pixels, checked, or what is wrong with its files."""
    try:
        return Loaded(scene, *load_pair(scene))
    except UserError as error:
        return SkippedScene(id=scene.id, reason=str(error))
