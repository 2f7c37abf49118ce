"""Toy town on disk, laid out exactly as GTA5 (the source) and Cityscapes (each target) are."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config.toytown import ToyTown
from pipeline.data.labels import CITYSCAPES_IDS, CLASSES, IGNORE
from pipeline.toytown.render import TARGETS, Rendering, render_source, render_target
from pipeline.work.progress import Track

# one label id per train id; what is ignored is stored as 0, "unlabeled"
_LABEL_IDS = np.zeros(256, np.uint8)
for _label_id, _train_id in CITYSCAPES_IDS.items():
    if _train_id != IGNORE:
        _LABEL_IDS[_train_id] = _label_id


def write_world(config: ToyTown, folder: Path, progress: Track) -> None:
    """Renders toy town into `folder`; the same config gives the same bytes.

    `source/images/NNNNN.png` and `source/labels/NNNNN.png` (palette PNG of Cityscapes label ids), and per target
    `targets/DOMAIN/leftImg8bit/val/toytown/*_leftImg8bit.png` and `gtFine/val/toytown/*_gtFine_labelIds.png` (grayscale
    PNG of label ids). A pair that is already there is not rendered again.
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
    total = len(todo)
    todo = [pair for pair in todo if not (pair[0].exists() and pair[1].exists())]
    for parent in {path.parent for image, label, *_ in todo for path in (image, label)}:
        parent.mkdir(parents=True, exist_ok=True)
    done = total - len(todo)
    for image, label, colors, render in progress(todo, total=total, description="Rendering toy town", done=done):
        rendering = render()
        ids = Image.fromarray(_LABEL_IDS[rendering.label])
        if colors:
            ids.putpalette(colors)
        _save(Image.fromarray(rendering.image), image)
        _save(ids, label)


def _palette() -> bytes:
    """The Cityscapes color of each label id, black for those that are not evaluated."""
    colors = np.zeros((256, 3), np.uint8)
    colors[_LABEL_IDS[: len(CLASSES)]] = [c.color for c in CLASSES]
    return colors.tobytes()


def _save(image: Image.Image, path: Path) -> None:
    """Write a PNG that is either whole or not there."""
    partial_path = path.with_suffix(".partial")
    image.save(partial_path, format="PNG")
    partial_path.replace(path)
