"""Scores a `predict` callable on every domain: evaluation.json, every image's counts, some predictions as pictures.

Reading files, predicting and counting overlap: threads do the first and the last. One domain is one unit of resume. A
file that cannot be used does not stop the others: it is skipped and listed with its reason, and the caller tells the
user by its exit code.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.images import Images, save_images, stack
from evaluation.inference import Predict, Prediction, input_size, input_text
from evaluation.metrics import Counts, LabelMap, Scores, class_iou, count, mean_iou, share
from pipeline.config.evaluation import EvaluationConfig
from pipeline.datasets import Scene, check_pair, load_image, load_label
from pipeline.errors import UserError
from pipeline.manifest import write_json
from pipeline.pictures import save_label
from pipeline.progress import Track
from pipeline.threads import THREADS, in_order


class Loaded(NamedTuple):
    """One scene's pixels: (H,W,3) and (H,W) uint8."""

    scene: Scene
    image: NDArray[np.uint8]
    label: LabelMap


class Skipped(NamedTuple):
    """A scene that could not be used, and why in one line."""

    id: str
    reason: str


def evaluate(
    predict: Predict,
    domains: Mapping[str, Sequence[Scene]],
    config: EvaluationConfig,
    folder: Path,
    *,
    progress: Track,
    batch_size: int = 1,
) -> None:
    """Writes `folder/evaluation.json`, `folder/images/<domain>.npz` and `folder/predictions/<domain>/<scene id>.png`.

    The file grows by one domain at a time and domains in it are not done again, so an interrupted call continues.
    `predict` gets up to `batch_size` images of one size at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "evaluation.json"
    results = json.loads(file.read_text(encoding="utf-8"))["domains"] if file.exists() else {}
    for name, scenes in domains.items():
        if name not in results:
            domain = _Domain(name, config, folder, _spread(scenes, config.keep_predictions))
            loaded = progress(
                in_order(load_scene, scenes, ahead=THREADS + batch_size), total=len(scenes), description=name
            )
            results[name] = domain.evaluate(predict, loaded, batch_size)
            write_json(file, {"band": config.band, "domains": results})


class _Domain(NamedTuple):
    """One domain being scored; `kept` are the ids whose predictions become pictures."""

    name: str
    config: EvaluationConfig
    folder: Path
    kept: frozenset[str]

    @property
    def widths(self) -> list[int]:
        return sorted({self.config.band, *self.config.curve})

    def evaluate(self, predict: Predict, loaded: Iterable[Loaded | Skipped], batch_size: int) -> dict[str, Any]:
        """Scores and skipped files, ready for JSON; writes the counts of every image."""
        skipped: list[Skipped] = []
        sizes: set[tuple[int, int]] = set()

        def predicted() -> Iterator[tuple[Loaded, Prediction]]:
            for batch in _batches(loaded, batch_size, skipped):
                size = batch[0].image.shape[:2]
                sizes.add(size)
                images = np.stack([item.image for item in batch])
                labels, confidence = predict(images, input_size(self.config, self.name, size))
                for k, item in enumerate(batch):
                    yield item, Prediction(labels[k], None if confidence is None else confidence[k])

        scored = list(in_order(self._count, predicted(), ahead=THREADS + batch_size))
        images = stack([(scene.id, scene.condition, counts) for scene, counts in scored], len(self.widths))
        save_images(images, self.folder, self.name)
        return {
            **self._scores(images),
            "conditions": {name: self._scores(images.where(name)) for name in sorted({*images.conditions} - {""})},
            "scale": input_text(self.config, self.name, sizes),
            "predictions": [scene.id for scene, _ in scored if scene.id in self.kept],
            "skipped": [item._asdict() for item in skipped],
        }

    def _count(self, item: tuple[Loaded, Prediction]) -> tuple[Scene, Counts]:
        """Counts one prediction, on the device where it is, and keeps it as a picture if it is to be kept."""
        (scene, _, truth), prediction = item
        labels = torch.as_tensor(prediction.labels)
        confidence = None if prediction.confidence is None else torch.as_tensor(prediction.confidence)
        try:
            counts = count(labels, torch.tensor(truth, device=labels.device), self.widths, confidence)
        except ValueError as error:
            raise UserError(f"{self.name}, {scene.id}: {error}; this segmenter cannot be scored") from error
        if scene.id in self.kept:
            save_label(self.folder / "predictions" / self.name / f"{scene.id}.png", labels.cpu().numpy())
        return scene, counts

    def _scores(self, images: Images) -> dict[str, Any]:
        """All scores of some of the domain's images."""
        scores = Scores(self.config.band, self.config.curve, images.total(), len(images.ids))
        iou = class_iou(scores.confusion)
        return {
            "images": scores.images,
            "confusion": scores.confusion.tolist(),
            "iou": _numbers(iou.tolist()),
            "miou": _number(mean_iou(iou)),
            "pixel_accuracy": _number(scores.pixel_accuracy),
            "boundary_error": _number(scores.boundary_error),
            "interior_error": _number(scores.interior_error),
            "curve": {
                "px": scores.widths,
                "boundary": _numbers(scores.boundary_errors()),
                "interior": _numbers(scores.interior_errors()),
                "share": _numbers(scores.boundary_shares()),
            },
            "calibration": _calibration(scores),
        }


def _calibration(scores: Scores) -> dict[str, Any] | None:
    """The calibration error and its bins; None where `predict` gave no confidences."""
    columns = zip(scores.counts.bin_pixels, scores.counts.bin_right, scores.counts.bin_confidence, strict=True)
    if scores.pixels and not scores.counts.bin_pixels.any():
        return None
    bins = [
        {"confidence": _number(share(total, pixels)), "accuracy": _number(share(right, pixels)), "pixels": int(pixels)}
        for pixels, right, total in columns
    ]
    return {"ece": _number(scores.calibration_error), "bins": bins}


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _spread(scenes: Sequence[Scene], wanted: int | str) -> frozenset[str]:
    """Ids of `wanted` scenes (or "all"), evenly spread."""
    count = len(scenes) if isinstance(wanted, str) else min(wanted, len(scenes))
    return frozenset(scenes[k].id for k in np.linspace(0, len(scenes) - 1, count).round().astype(int))


def _batches(loaded: Iterable[Loaded | Skipped], batch_size: int, skipped: list[Skipped]) -> Iterator[list[Loaded]]:
    """Neighbors of one size, up to `batch_size`; what cannot be used goes to `skipped`."""
    batch: list[Loaded] = []
    for item in loaded:
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        if batch and (len(batch) == batch_size or batch[0].image.shape != item.image.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def load_scene(scene: Scene) -> Loaded | Skipped:
    """The scene's pixels, checked, or what is wrong with its files."""
    try:
        if scene.image is None:
            raise UserError(f"{scene.id} has a label map but no image; give 'images' of its data set")
        check_pair(scene)
        return Loaded(scene, load_image(scene.image), load_label(scene.label, scene.ids))
    except UserError as error:
        return Skipped(scene.id, str(error))
