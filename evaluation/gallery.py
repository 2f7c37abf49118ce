"""Pictures of a report: one scene per domain, predictions beside the truth, generated images beside their masks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset
from numpy.typing import NDArray
from PIL import Image

from evaluation.metrics import LabelMap, Scores
from evaluation.scenes import DomainScene
from evaluation.schema import prediction_file
from evaluation.scoring import Loaded, load_or_skip
from pipeline.data.alignment_scores import read_scores
from pipeline.data.datasets import Scene
from pipeline.data.generated_rows import decode_pair, row_name
from pipeline.data.labels import IGNORE, TRAIN_IDS, load_label_map
from pipeline.data.pictures import Picture, colorize, data_uri, fit, side_by_side
from pipeline.files import file_stem

PICTURE_PX = 640
"""Longest side of a picture in the page; tiny ones are enlarged to it pixel by pixel, larger ones shrunk."""
SMALL_PX = 256
"""Images up to this side keep every pixel exact (PNG); larger ones are photographs (JPEG)."""
PER_CONDITION = 4
"""Generated images shown per condition."""

RIGHT, WRONG_BOUNDARY, WRONG_INTERIOR = (233, 236, 239), (230, 159, 0), (0, 114, 178)
"""Error map: gray, orange, blue (Okabe and Ito)."""


@dataclass(frozen=True)
class ComparedScene:
    """One scene as data URIs; `predictions` holds (method, share of pixels right, prediction, error map)."""

    domain: str
    id: str
    image: str
    truth: str
    predictions: Sequence[tuple[str, float, str, str]]


@dataclass(frozen=True)
class GeneratedImage:
    """One generated image and its mask as data URIs."""

    image: str
    mask: str
    prompt: str
    class_id: int
    alignment: float | None
    control: float | None


def photo_uri(picture: Picture) -> str:
    """An image of a scene for the page."""
    return data_uri(fit(picture, PICTURE_PX), "PNG" if max(picture.shape[:2]) <= SMALL_PX else "JPEG")


def flat_uri(picture: Picture) -> str:
    """A picture of flat colors (a label map, an error map) for the page."""
    return data_uri(fit(picture, PICTURE_PX, Image.Resampling.NEAREST))


def save_row(pictures: Sequence[Picture], file: Path) -> None:
    """Writes pictures of one size side by side."""
    Image.fromarray(side_by_side([fit(p, PICTURE_PX, Image.Resampling.NEAREST) for p in pictures], gap_px=8)).save(file)


def domain_pictures(domains: Mapping[str, Sequence[Scene]]) -> dict[str, str]:
    """The first readable scene of each domain."""
    pictures = {}
    for name, scenes in domains.items():
        loaded = next((item for item in map(load_or_skip, scenes) if isinstance(item, Loaded)), None)
        if loaded:
            pictures[name] = photo_uri(loaded.image)
    return pictures


def error_map(prediction: LabelMap, label: LabelMap, on_boundary: NDArray[np.bool_]) -> Picture:
    """Gray where right, orange where wrong in the boundary band, blue where wrong elsewhere, white where ignored."""
    wrong = prediction != label
    picture = np.full((*label.shape, 3), RIGHT, np.uint8)
    picture[wrong & on_boundary] = WRONG_BOUNDARY
    picture[wrong & ~on_boundary] = WRONG_INTERIOR
    picture[label == IGNORE] = 255
    return picture


def compared_scenes(
    places: Sequence[DomainScene],
    domains: Mapping[str, Sequence[Scene]],
    evaluations: Mapping[str, Path],
    band: int,
    figures: Path,
) -> Iterator[ComparedScene]:
    """The scenes with the predictions that the evaluations (method -> folder) kept, also as sheets into `figures`."""
    scenes = {DomainScene(name, scene.id): scene for name, group in domains.items() for scene in group}
    for place in places:
        loaded = load_or_skip(scenes[place])
        if isinstance(loaded, Loaded):
            files = {method: prediction_file(folder, *place) for method, folder in evaluations.items()}
            maps = {method: load_label_map(file, TRAIN_IDS) for method, file in files.items()}
            yield _compare(place.domain, loaded, maps, band, figures)


def _compare(
    domain: str, loaded: Loaded, predictions: Mapping[str, LabelMap], band: int, figures: Path
) -> ComparedScene:
    sheet = [loaded.image, colorize(loaded.label)]
    entries = []
    for method, prediction in predictions.items():
        scores = Scores(band)
        on_boundary = scores.add(prediction, loaded.label)
        errors = error_map(prediction, loaded.label, on_boundary)
        entries.append((method, scores.pixel_accuracy, flat_uri(colorize(prediction)), flat_uri(errors)))
        sheet += [colorize(prediction), errors]
    save_row(sheet, figures / f"{file_stem(f'predictions_{domain}_{loaded.scene.id}')}.png")
    truth = flat_uri(colorize(loaded.label))
    return ComparedScene(domain, loaded.scene.id, photo_uri(loaded.image), truth, entries)


def generated_images(folder: Path, figures: Path, scored: Path | None = None) -> dict[str, list[GeneratedImage]]:
    """Per condition, images evenly spaced through the data set, and one sheet of them in `figures`. `scored`: the
    folder of their alignment scores; without one the data set's own columns count."""
    dataset = pyarrow.dataset.dataset(folder / "data", format="parquet")
    conditions = np.array(dataset.to_table(columns=["condition"])["condition"].to_pylist())
    scores = read_scores(folder, scored)
    shown: dict[str, list[GeneratedImage]] = {}
    for condition in dict.fromkeys(conditions.tolist()):
        rows = np.flatnonzero(conditions == condition)
        picked = rows[np.linspace(0, len(rows) - 1, min(PER_CONDITION, len(rows))).round().astype(int)]
        records = dataset.take(picked).to_pylist()
        for record, row in zip(records, picked, strict=True):
            record |= {name: float(column[row]) for name, column in scores.items()}
        pictures = [
            decode_pair(record["image"]["bytes"], record["label"]["bytes"], row_name(folder, int(row)))
            for record, row in zip(records, picked, strict=True)
        ]
        shown[condition] = [
            GeneratedImage(
                photo_uri(image),
                flat_uri(colorize(mask)),
                *(r.get(name) for name in ("prompt", "class_id", "alignment", "alignment_control")),
            )
            for r, (image, mask) in zip(records, pictures, strict=True)
        ]
        sheet = [part for image, mask in pictures for part in (image, colorize(mask))]
        save_row(sheet, figures / f"generated_{file_stem(condition)}.png")
    return shown
