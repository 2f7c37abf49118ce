"""Data sets of made content in the layouts, the sizes and the file formats of the published ones, a few scenes each.

Photographs and label maps come from two folders, or from toy town where there are none: photographs are tiled and
noised to the wanted size, so that files are as hard to read as real ones, label maps are enlarged without new values.
The source's label maps are bands with one rare thing in a corner: an image that is painted for it has 16 windows in
fusion's second pass, as many as one call takes, where real streets have 81 and would take 2 cores half an hour a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.image_files import read_image
from pipeline.data.labels import CITYSCAPES_IDS, CLASSES, IGNORE, MAPILLARY_IDS, NUM_CLASSES, TRAIN_IDS, load_label_map
from pipeline.files import written_whole
from pipeline.seeding import random_generator
from pipeline.toytown import render_source

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
"""Height and width, px."""

NOISE = 6.0
"""Deviation of the noise that is added to photographs: about what a camera's sensor leaves in them."""
GTA_SCENES = 6
BANDS = (10, 2, 1, 0)
"""Sky, building, sidewalk and road, from above."""
THINGS = (6, 7, 11, 16, 17, 18)
"""Rare classes, one for each label map of the source in turn."""
THING = 128
"""Height and width of a thing, px."""


class File(NamedTuple):
    """A scene of a data set: where its image and its label map lie below the root, and their sizes."""

    image: str
    label: str
    size: Size
    label_size: Size | None = None
    """Where it differs from the image's, as it does in a few pairs of GTA5."""


class SetOfFiles(NamedTuple):
    """A data set. `ids` is the table from stored values to train ids; a `palette` PNG holds its colors too."""

    files: Sequence[File]
    ids: Mapping[int, int]
    palette: bool = False


def _gta() -> Iterator[File]:
    for k in range(1, GTA_SCENES + 1):
        yield File(f"images/{k:05d}.png", f"labels/{k:05d}.png", (1052, 1914))
    name = f"{GTA_SCENES + 1:05d}.png"
    yield File(f"images/{name}", f"labels/{name}", (1046, 1914), (1052, 1914))


def _acdc() -> Iterator[File]:
    for condition, drive in {"fog": "GOPR0475", "night": "GOPR0351", "rain": "GP010400", "snow": "GOPR0122"}.items():
        scene = f"{condition}/val/{drive}/{drive}_frame_000041"
        yield File(f"rgb_anon/{scene}_rgb_anon.png", f"gt/{scene}_gt_labelTrainIds.png", (1080, 1920))


SETS = {
    "gta": SetOfFiles(list(_gta()), CITYSCAPES_IDS, palette=True),
    "cityscapes": SetOfFiles(
        [
            File(
                "leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png",
                "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png",
                (1024, 2048),
            )
        ],
        CITYSCAPES_IDS,
    ),
    "bdd100k": SetOfFiles(
        [File("images/10k/val/7d06fefd.jpg", "labels/sem_seg/masks/val/7d06fefd.png", (720, 1280))], TRAIN_IDS
    ),
    "mapillary": SetOfFiles(  # the second one is upright, as telephones take them
        [
            File("validation/images/0aaa.jpg", "validation/labels/0aaa.png", (4000, 6000)),
            File("validation/images/0bbb.jpg", "validation/labels/0bbb.png", (3264, 2448)),
        ],
        MAPILLARY_IDS,
        palette=True,
    ),
    "acdc": SetOfFiles(list(_acdc()), TRAIN_IDS),
    "dark_zurich": SetOfFiles(
        [
            File(
                "rgb_anon/val/night/GOPR0356/GOPR0356_frame_000324_rgb_anon.png",
                "gt/val/night/GOPR0356/GOPR0356_frame_000324_gt_labelTrainIds.png",
                (1080, 1920),
            )
        ],
        TRAIN_IDS,
    ),
}
"""Each data set by the folder that the presets look for it in."""


def write_tree(folder: Path, photographs: Path | None, label_maps: Path | None, shrink: int = 1) -> None:
    """Writes every data set of SETS into `folder`, but for files that are there. The same call gives the same pixels.

    photographs: a folder of images; label_maps: one of PNGs of train ids; None for toy town's. Sizes are divided by
    `shrink`.
    """
    images = list(_photographs(photographs))
    labels = list(_label_maps(label_maps))
    for name, data_set in SETS.items():
        for k, file in enumerate(data_set.files):
            size, label_size = (_shrunk(s, shrink) for s in (file.size, file.label_size or file.size))
            image, label = folder / name / file.image, folder / name / file.label
            if not image.exists():
                _save(Image.fromarray(photograph(images[k % len(images)], size, f"{name} {k}")), image)
            if not label.exists():
                truth = enlarged(labels[k % len(labels)], label_size)
                if name == "gta":
                    truth = thing_in_a_corner(label_size, THINGS[k % len(THINGS)], THING // shrink)
                _save(label_picture(truth, data_set), label)


def photograph(picture: Pixels, size: Size, name: str) -> Pixels:
    """The picture (h,w,3) tiled to `size` = (H,W), with noise that is drawn by `name`."""
    times = [-(-wanted // side) for wanted, side in zip(size, picture.shape, strict=False)]
    whole = np.tile(picture, (*times, 1))[: size[0], : size[1]].astype(np.int16)
    noise = random_generator("rehearsal", name).normal(0, NOISE, (256, 256, 3)).round().astype(np.int16)
    tiles = [-(-wanted // 256) for wanted in size]
    return (whole + np.tile(noise, (*tiles, 1))[: size[0], : size[1]]).clip(0, 255).astype(np.uint8)


def enlarged(label: Pixels, size: Size) -> Pixels:
    """A label map (h,w) at `size` = (H,W), nearest."""
    return np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))


def thing_in_a_corner(size: Size, thing: int, side: int) -> Pixels:
    """A label map (H,W) of BANDS, with a square of the class `thing` in its upper left corner."""
    rows = np.arange(size[0]) * len(BANDS) // size[0]
    label = np.repeat(np.array(BANDS, np.uint8)[rows][:, None], size[1], axis=1)
    label[:side, :side] = thing
    return label


def label_picture(label: Pixels, data_set: SetOfFiles) -> Image.Image:
    """Train ids (H,W) as a picture of the data set's own ids: the first that stands for a class, for ignore too."""
    stored = np.zeros(256, np.uint8)
    for train_id in (*range(NUM_CLASSES), IGNORE):
        stored[train_id] = next(own for own, means in data_set.ids.items() if means == train_id and own >= 0)
    picture = Image.fromarray(stored[label])
    if data_set.palette:
        colors = np.zeros((256, 3), np.uint8)
        colors[stored[:NUM_CLASSES]] = [one.color for one in CLASSES]
        picture.putpalette(colors.tobytes())
    return picture


def _photographs(folder: Path | None) -> Iterator[Pixels]:
    if folder is None:
        yield from (render_source(0, k, (96, 192)).image.repeat(4, 0).repeat(4, 1) for k in range(GTA_SCENES))
        return
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    yield from map(read_image, files[:GTA_SCENES])


def _label_maps(folder: Path | None) -> Iterator[Pixels]:
    if folder is None:
        yield from (render_source(0, k, (96, 192)).label for k in range(GTA_SCENES))
        return
    yield from (load_label_map(path, TRAIN_IDS) for path in sorted(folder.rglob("*.png"))[:GTA_SCENES])


def _shrunk(size: Size, by: int) -> Size:
    return max(1, size[0] // by), max(1, size[1] // by)


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, durable=False) as unfinished:
        if path.suffix == ".jpg":
            picture.save(unfinished, format="JPEG", quality=92)
        else:
            picture.save(unfinished, format="PNG", compress_level=1)
