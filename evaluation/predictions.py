"""Predictions of pictures without truth, as files: label maps, overlays and confidence in folders of their own.

Every picture has a name, which all its files share. Its label map is written last: a name with a label map is done, so
the same call continues an interrupted one. Reading, predicting and writing overlap; the files keep the pictures' order.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from evaluation.inference import Predict, PredictedLabels, same_size
from evaluation.resizing import Size
from pipeline.data.labels import CITYSCAPES_IDS, IGNORE, NUM_CLASSES
from pipeline.data.pictures import Picture, colorize, fit, label_png, png
from pipeline.errors import UserError, one_line
from pipeline.files import check_new_folder, check_output, write_json, written_whole
from pipeline.work.progress import Track
from pipeline.work.threads import THREADS, in_order

LABELS, OVERLAYS, CONFIDENCE = "labels", "overlays", "confidence"
SETTINGS, SKIPPED, SHEET = "settings.json", "skipped.json", "contact_sheet.jpg"
OPACITY = 0.55
"""How much the classes' colors cover the picture (ours)."""
SHEET_PICTURES, SHEET_COLUMNS, SHEET_PX = 24, 4, 320
JPEG_QUALITY = 90

Ids = Literal["train", "cityscapes", "color"]
"""What a label map's values are: train ids 0 to 18, Cityscapes' label ids (7 for road), or the classes' RGB colors."""

_LABEL_IDS = np.zeros(256, np.uint8)
_LABEL_IDS[:NUM_CLASSES] = [stored for stored, train_id in CITYSCAPES_IDS.items() if train_id != IGNORE]


class Unread(NamedTuple):
    """A picture that is still to be read: its name (a relative path without ending), and how."""

    name: str
    read: Callable[[], Picture]


class PictureFiles(NamedTuple):
    """Which files a picture gets."""

    ids: Ids = "train"
    overlays: bool = True
    confidence: bool = False


class Written(NamedTuple):
    """What a call has done: pictures predicted by it, and the reason for each name that could not be read."""

    predicted: int
    skipped: dict[str, str]


class _Shown(NamedTuple):
    name: str
    pixels: Picture


def open_output(output: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder, or opens one that an interrupted call with the same settings has begun.

    UserError where it holds anything else: files of two models or sizes would lie side by side without a word.
    """
    file = output / SETTINGS
    if not file.exists():
        check_new_folder(output, "--output")
        output.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
        return
    check_output(output, "--output")
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}); name a new folder by --output") from error
    if before != json.loads(json.dumps(settings)):
        found = before if isinstance(before, dict) else {}
        other = [name for name in settings if found.get(name) != settings[name]] or ["content"]
        raise UserError(
            f"--output {output} holds predictions with another {' and '.join(other)}; name a new folder, or repeat the"
            " command that wrote it"
        )


def label_file(output: Path, name: str) -> Path:
    """Where the label map of a picture lies."""
    return output / LABELS / f"{name}.png"


def write_predictions(
    pictures: Iterable[Unread],
    output: Path,
    predicts: Sequence[Predict],
    size_of: Callable[[Size], Size],
    wanted: PictureFiles,
    progress: Track,
    *,
    total: int,
    batch_size: int = 1,
) -> Written:
    """Predicts all `pictures` that have no label map in `output` yet.

    predicts: one per device; each sees up to `batch_size` neighbors of one size. size_of: the picture's (H,W) px -> the
    network's input. total: pictures in all, those that are done included, for the bar. A picture that cannot be read is
    left out and named.
    """
    skipped: dict[str, str] = {}
    unfinished = (picture for picture in pictures if not label_file(output, picture.name).is_file())
    devices = _Devices(predicts, size_of)
    # Three steps side by side: threads read ahead, one thread per device predicts, threads write.
    loaded = in_order(_read, unfinished, ahead=THREADS + batch_size)
    batches = same_size(_readable(loaded, skipped), batch_size, _size)
    results = in_order(devices.predicted, batches, ahead=len(predicts), threads=len(predicts))
    files = in_order(lambda pair: _write(output, *pair, wanted), (pair for batch in results for pair in batch))
    done = sum(1 for _ in progress(files, total=total, description="Predicting"))
    write_json(output / SKIPPED, skipped)
    return Written(done, skipped)


class _Devices:
    """The predictors that are free: each works on one batch at a time."""

    def __init__(self, predicts: Sequence[Predict], size_of: Callable[[Size], Size]) -> None:
        self.free: SimpleQueue[Predict] = SimpleQueue()
        for predict in predicts:
            self.free.put(predict)
        self.size_of = size_of

    def predicted(self, batch: Sequence[_Shown]) -> list[tuple[_Shown, PredictedLabels]]:
        """Each picture of a batch with its prediction."""
        predict = self.free.get()
        try:
            images = np.stack([item.pixels for item in batch])
            labels, confidence = predict(images, self.size_of(_size(batch[0])))
        finally:
            self.free.put(predict)
        return [
            (item, PredictedLabels(labels[k], None if confidence is None else confidence[k]))
            for k, item in enumerate(batch)
        ]


def _size(picture: _Shown) -> Size:
    return picture.pixels.shape[0], picture.pixels.shape[1]


def _read(picture: Unread) -> _Shown | tuple[str, str]:
    try:
        return _Shown(picture.name, picture.read())
    except UserError as error:
        return picture.name, str(error)


def _readable(pictures: Iterable[_Shown | tuple[str, str]], skipped: dict[str, str]) -> Iterator[_Shown]:
    """The pictures that were read; names and reasons of the others go to `skipped`."""
    for picture in pictures:
        if isinstance(picture, _Shown):
            yield picture
        else:
            skipped[picture[0]] = picture[1]


def _write(output: Path, picture: _Shown, prediction: PredictedLabels, wanted: PictureFiles) -> None:
    labels = torch.as_tensor(prediction.labels).cpu().numpy()
    if wanted.overlays:
        file = output / OVERLAYS / f"{picture.name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file, durable=False) as part:
            Image.fromarray(overlay(picture.pixels, labels)).save(part, "JPEG", quality=JPEG_QUALITY)
    if wanted.confidence and prediction.confidence is not None:
        share = torch.as_tensor(prediction.confidence).float().mul(255).round().to(torch.uint8).cpu().numpy()
        _write_bytes(output / CONFIDENCE / f"{picture.name}.png", png(share))
    _write_bytes(label_file(output, picture.name), _label_bytes(labels, wanted.ids))


def _write_bytes(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as part:
        part.write_bytes(content)


def _label_bytes(labels: NDArray[np.uint8], ids: Ids) -> bytes:
    if ids == "color":
        return png(colorize(labels))
    return label_png(labels) if ids == "train" else png(_LABEL_IDS[labels])


def overlay(picture: Picture, labels: NDArray[np.uint8]) -> Picture:
    """(H,W,3) the picture under the classes' colors."""
    mixed = (1 - OPACITY) * picture + OPACITY * colorize(labels)
    return mixed.round().astype(np.uint8)


def write_sheet(output: Path, names: Sequence[str]) -> Path | None:
    """Overlays of up to `SHEET_PICTURES` names, evenly spread, in one picture; None where there are none."""
    files = [file for name in names if (file := output / OVERLAYS / f"{name}.jpg").is_file()]
    if not files:
        return None
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, SHEET_PICTURES).round().astype(int))]
    small = []
    for file in chosen:
        with Image.open(file, formats=("JPEG",)) as image:
            small.append(fit(np.asarray(image), SHEET_PX, Image.Resampling.BOX))
    height, width = max(p.shape[0] for p in small), max(p.shape[1] for p in small)
    rows = -(-len(small) // SHEET_COLUMNS)
    sheet = np.full((rows * (height + 4), min(SHEET_COLUMNS, len(small)) * (width + 4), 3), 255, np.uint8)
    for k, picture in enumerate(small):
        top, left = k // SHEET_COLUMNS * (height + 4), k % SHEET_COLUMNS * (width + 4)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    with written_whole(output / SHEET, durable=False) as part:
        Image.fromarray(sheet).save(part, "JPEG", quality=JPEG_QUALITY)
    return output / SHEET
