"""Random trees of images and label maps: pairs and pixels equal an independent reading, or the file is named."""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.config.data import Dataset
from pipeline.data.datasets import list_scenes, load_pair, pair_size
from pipeline.data.labels import TRAIN_IDS
from pipeline.errors import UserError

NAMES = st.text("ab01 []%'\"?*{}:;,~$#&üß日", min_size=1, max_size=6).filter(lambda name: any(map(str.isalnum, name)))
"""Letters, unpadded numbers, blanks, what globs, formats, URLs and shells read as their own, and other scripts."""


class Pair(NamedTuple):
    """One picture: where it lies, how its files are written, and whether image or label is missing."""

    folders: tuple[str, ...]
    stem: str
    endings: tuple[str, str]
    orientation: int
    bits: int
    palette: bool
    missing: str
    seed: int


PAIRS = st.lists(
    st.builds(
        Pair,
        folders=st.lists(NAMES, max_size=2).map(tuple),
        stem=NAMES,
        endings=st.tuples(st.sampled_from(["png", "PNG", "webp", "bmp"]), st.sampled_from(["png", "PNG", "Png"])),
        orientation=st.integers(1, 8),
        bits=st.sampled_from([1, 2, 4, 8]),
        palette=st.booleans(),
        missing=st.sampled_from(["", "", "", "", "image", "label"]),
        seed=st.integers(0, 99),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda pair: (pair.folders, pair.stem),
)


def write_label(path: Path, values: np.ndarray, bits: int, *, palette: bool) -> None:
    """A PNG of that bit depth, written without any library that could change a value."""
    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for row in values]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 3 if palette else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    if palette:
        chunks.insert(1, (b"PLTE", np.random.default_rng(0).bytes(3 * 2**bits)))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_image(path: Path, upright: np.ndarray, orientation: int) -> None:
    """A lossless picture that is to be turned as EXIF's tag 274 says, stored so that it is then `upright`."""
    back = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright.swapaxes(0, 1)[:, ::-1],
    }
    exif = Image.Exif()
    exif[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(back[orientation])).save(path, exif=exif, lossless=True)


def write_tree(root: Path, pairs: list[Pair], label_end: str) -> dict[Path, tuple[Path, np.ndarray, np.ndarray]]:
    """Image file -> (label file, image, label), as they are to be read, of what is whole."""
    whole = {}
    for pair in pairs:
        random = np.random.default_rng(pair.seed)
        label = random.integers(0, min(2**pair.bits, 19), (3, 8)).astype(np.uint8)
        image = random.integers(0, 256, (3, 8, 3)).astype(np.uint8)
        orientation = 1 if pair.endings[0] == "bmp" else pair.orientation  # a bitmap has no EXIF
        places = [root.joinpath(top, *pair.folders) for top in ("images", "labels")]
        image_file = places[0] / f"{pair.stem}.{pair.endings[0]}"
        label_file = places[1] / f"{pair.stem}{label_end}.{pair.endings[1]}"
        if pair.missing != "image":
            write_image(image_file, image, orientation)
        if pair.missing != "label":
            write_label(label_file, label, pair.bits, palette=pair.palette)
        if not pair.missing:
            whole[image_file] = (label_file, image, label)
    return whole


def move_behind_links(root: Path, elsewhere: Path) -> None:
    """Every other folder of the first level is moved away and linked to."""
    for top in ("images", "labels"):
        for folder in sorted(path for path in root.glob(f"{top}/*") if path.is_dir())[::2]:
            (elsewhere / top).mkdir(parents=True, exist_ok=True)
            folder.rename(elsewhere / top / folder.name)
            folder.symlink_to(elsewhere / top / folder.name)
        if (root / top).is_dir():
            (root / top / "back").symlink_to(root)
            (root / top / ".hidden.png").write_bytes(b"no picture")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=PAIRS, name=NAMES, label_end=st.sampled_from(["", "_mask", " (gt)"]), in_pattern=st.booleans())
def test_random_trees(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], name: str, label_end: str, *, in_pattern: bool
) -> None:
    if label_end and not in_pattern:  # where names alone tell the constant part, strangers could look like a pair
        pairs = [pair._replace(missing="") for pair in pairs]
    assume(any(not pair.missing for pair in pairs))
    place = tmp_path_factory.mktemp("tree")
    root = place / name
    root.mkdir()
    whole = write_tree(root, pairs, label_end)
    move_behind_links(root, place / "elsewhere")
    dataset = Dataset.model_validate({
        "name": "own", "root": root, "layout": "globs", "ids": TRAIN_IDS,
        "images": "images/**/*.*", "labels": f"labels/**/*{label_end if in_pattern else ''}.png",
    })  # fmt: skip
    ids = ["_".join((*pair.folders, pair.stem)) for pair in pairs if pair.missing != "image"]
    if len(set(ids)) < len(ids):
        with pytest.raises(UserError, match=r"\Aown: .*\Z"):
            list_scenes(dataset)
        return
    listing = list_scenes(dataset)
    kinds = {kind: [pair for pair in pairs if pair.missing == kind] for kind in ("image", "label")}
    assert len(listing.unlabeled) == len(kinds["label"]) and len(listing.imageless) == len(kinds["image"])
    assert {scene.image for scene in listing.scenes} == set(whole)
    for scene in listing.scenes:
        assert scene.image is not None
        label_file, image, label = whole[scene.image]
        assert scene.label == label_file and pair_size(scene) == label.shape
        read = load_pair(scene)
        np.testing.assert_array_equal(read[0], image)
        np.testing.assert_array_equal(read[1], label)
