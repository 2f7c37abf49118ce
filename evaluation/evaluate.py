"""Scores a `predict` callable on every domain: evaluation.json and a few predictions as pictures.

One domain is one unit of resume. A file that cannot be used does not stop the others: it is skipped and listed with its
reason, and the caller tells the user by its exit code.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import LabelMap, Scores, class_iou, mean_iou
from pipeline.config.evaluation import EvaluationConfig
from pipeline.datasets import Scene, check_pair, load_image, load_label
from pipeline.errors import UserError
from pipeline.manifest import write_json
from pipeline.pictures import save_label
from pipeline.progress import Track

Predict = Callable[[NDArray[np.uint8]], LabelMap]
"""Image (H,W,3) uint8 RGB -> (H,W) uint8 train ids."""

DECODERS = 2
"""Threads that read files while `predict` works, and scenes that wait in memory."""


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
) -> None:
    """Writes `folder/evaluation.json` and `folder/predictions/<domain>/<scene id>.png`.

    The file grows by one domain at a time and domains in it are not done again, so an interrupted call continues.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "evaluation.json"
    results = json.loads(file.read_text(encoding="utf-8"))["domains"] if file.exists() else {}
    for name, scenes in domains.items():
        if name in results:
            continue
        loaded = progress(_prefetched(scenes), total=len(scenes), description=name)
        results[name] = _evaluate_domain(predict, loaded, config, folder / "predictions" / name)
        write_json(file, {"band": config.band, "domains": results})


def _evaluate_domain(
    predict: Predict, loaded: Iterable[Loaded | Skipped], config: EvaluationConfig, pictures: Path
) -> dict[str, Any]:
    """Scores and skipped files of one domain, ready for JSON."""
    scores = Scores(config.band)
    skipped: list[dict[str, str]] = []
    kept: list[str] = []
    sizes: set[tuple[int, int]] = set()
    for item in loaded:
        if isinstance(item, Skipped):
            skipped.append(item._asdict())
            continue
        prediction = predict(item.image)
        scores.add(prediction, item.label)
        sizes.add((item.label.shape[1], item.label.shape[0]))
        if len(kept) < config.keep_predictions:
            save_label(pictures / f"{item.scene.id}.png", prediction)
            kept.append(item.scene.id)
    scale = f"{config.scale:g} × {_size_text(sizes)}"
    return {**_as_json(scores), "scale": scale, "predictions": kept, "skipped": skipped}


def _as_json(scores: Scores) -> dict[str, Any]:
    iou = class_iou(scores.confusion)
    return {
        "images": scores.images,
        "confusion": scores.confusion.tolist(),
        "iou": [_number(value) for value in iou.tolist()],
        "miou": _number(mean_iou(iou)),
        "pixel_accuracy": _number(scores.pixel_accuracy),
        "boundary_error": _number(scores.boundary_error),
        "interior_error": _number(scores.interior_error),
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _size_text(sizes: set[tuple[int, int]]) -> str:
    """The (width, height) of a domain's images as people write them."""
    if not sizes:
        return "no image"
    ends = dict.fromkeys((min(sizes), max(sizes)))
    return " to ".join(f"{width}×{height}" for width, height in ends) + " px"


def _prefetched(scenes: Sequence[Scene]) -> Iterator[Loaded | Skipped]:
    """The scenes in order, read in threads while the caller predicts, never more than `DECODERS` ahead."""
    waiting = iter(scenes)
    with ThreadPoolExecutor(DECODERS) as pool:
        futures = deque(pool.submit(load_scene, scene) for scene in islice(waiting, DECODERS))
        while futures:
            yield futures.popleft().result()
            futures.extend(pool.submit(load_scene, scene) for scene in islice(waiting, 1))


def load_scene(scene: Scene) -> Loaded | Skipped:
    """The scene's pixels, checked, or what is wrong with its files."""
    try:
        if scene.image is None:
            raise UserError(f"{scene.id} has a label map but no image; give 'images' of its data set")
        check_pair(scene)
        return Loaded(scene, load_image(scene.image), load_label(scene.label, scene.ids))
    except UserError as error:
        return Skipped(scene.id, str(error))
