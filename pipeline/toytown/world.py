"""Toy town on disk, laid out exactly as GTA5 (the source) and Cityscapes (each target) are."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config.toytown import ToyTown
from pipeline.data.labels import CITYSCAPES_IDS, CLASSES, IGNORE
from pipeline.files import file_sha256, written_whole
from pipeline.toytown.render import TARGETS, Rendering, render_source, render_target
from pipeline.work.progress import Track
from pipeline.work.units import DIGEST, WORK

# one label id per train id; what is ignored is stored as 0, "unlabeled"
_LABEL_IDS = np.zeros(256, np.uint8)
for _label_id, _train_id in CITYSCAPES_IDS.items():
    if _train_id != IGNORE:
        _LABEL_IDS[_train_id] = _label_id


def write_world(config: ToyTown, folder: Path, progress: Track) -> None:
    """Renders toy town into `folder`; the same config gives the same bytes.

    `source/images/NNNNN.png` and `source/labels/NNNNN.png` (palette PNG of Cityscapes label ids), and per target
    `targets/DOMAIN/leftImg8bit/val/toytown/*_leftImg8bit.png` and `gtFine/val/toytown/*_gtFine_labelIds.png` (grayscale
    PNG of label ids). A pair that an interrupted call has left, whole, is not rendered again: the digests of both files
    lie in `.work`, which the store removes.
    """
    palette = _palette()
    todo: list[tuple[Path, Path, bytes | None, Callable[[], Rendering]]] = []
    for index in range(config.source_images):
        image, label = (folder / "source" / kind / f"{index:05}.png" for kind in ("images", "labels"))
        todo.append((image, label, palette, partial(render_source, config.seed, index, config.size)))
    for domain in TARGETS:
        root = folder / "targets" / domain
        for index in range(config.target_images):
            name = f"toytown_{index:06}_000000"
            image = root / "leftImg8bit" / "val" / "toytown" / f"{name}_leftImg8bit.png"
            label = root / "gtFine" / "val" / "toytown" / f"{name}_gtFine_labelIds.png"
            todo.append((image, label, None, partial(render_target, domain, config.seed, index, config.size)))
    for parent in {path.parent for image, label, *_ in todo for path in (image, label)} | {folder / WORK}:
        parent.mkdir(parents=True, exist_ok=True)
    left = [k for k, (image, label, *_) in enumerate(todo) if not _is_whole(image, label, _record(folder, k))]
    done = len(todo) - len(left)
    for k in progress(left, total=len(todo), description="Rendering toy town", done=done):
        image, label, colors, render = todo[k]
        rendering = render()
        ids = Image.fromarray(_LABEL_IDS[rendering.label])
        if colors:
            ids.putpalette(colors)
        _save(Image.fromarray(rendering.image), image)
        _save(ids, label)
        with written_whole(_record(folder, k), durable=False) as record:
            record.write_text(_digests(image, label), encoding="ascii")


def _palette() -> bytes:
    """The Cityscapes color of each label id, black for those that are not evaluated."""
    colors = np.zeros((256, 3), np.uint8)
    colors[_LABEL_IDS[: len(CLASSES)]] = [c.color for c in CLASSES]
    return colors.tobytes()


def _save(image: Image.Image, path: Path) -> None:
    # Not durably: it is made again in milliseconds, and its digest tells whether it must be.
    with written_whole(path, durable=False) as unfinished:
        image.save(unfinished, format="PNG")


def _record(folder: Path, k: int) -> Path:
    return folder / WORK / f"{k:06}{DIGEST}"


def _digests(image: Path, label: Path) -> str:
    return f"{file_sha256(image)} {file_sha256(label)}"


def _is_whole(image: Path, label: Path, record: Path) -> bool:
    try:
        return record.read_text(encoding="ascii") == _digests(image, label)
    except (OSError, ValueError):
        return False
