"""What decoders change without a word: it is undone, or the file is refused by name and reason."""

import io
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.config.data import Dataset
from pipeline.data.datasets import find_scenes, load_pair, pair_size
from pipeline.data.image_files import image_size, open_label, read_image
from pipeline.data.labels import TRAIN_IDS, load_label_map
from pipeline.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The picture as EXIF 2.3 (tag 274) describes it: which side of the stored one is the top, and which the left."""
    rows_first = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    flip_rows, flip_columns = rows_first[orientation]
    turned = stored.swapaxes(0, 1) if orientation >= 5 else stored
    return turned[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def with_orientation(path: Path, orientation: int, **options: Any) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif, **options)
    return path


Chunk = tuple[bytes, bytes]


def png(path: Path, rows: list[bytes], size: tuple[int, int], bits: int, color: int, *chunks: Chunk) -> Path:
    """A PNG written by hand, so that its bits are what they are; `chunks` follow the pixels."""
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", size[1], size[0], bits, color, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", bytes(range(48)))] if color == 3 else [(b"IHDR", header)]
    body = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*parts, (b"IDAT", content), *chunks, (b"IEND", b""))
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("ending", "options"), [("png", {}), ("webp", {"lossless": True}), ("tif", {})])
def test_case_02_orientation(tmp_path: Path, orientation: int, ending: str, options: dict[str, Any]) -> None:
    path = with_orientation(tmp_path / f"a.{ending}", orientation, **options)
    expected = upright(PIXELS, orientation)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]


@pytest.mark.parametrize("orientation", [3, 6])
def test_case_02_photographs_and_labels_of_one_size(tmp_path: Path, orientation: int) -> None:
    """A JPEG that is stored lying or upside down beside a label map that was painted on the upright picture."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "0.jpg", exif=exif)
    label = upright(stored[..., 0] // 255, orientation)
    Image.fromarray(np.ascontiguousarray(label)).save(tmp_path / "0.png")
    dataset = Dataset(name="own", root=tmp_path, layout="globs", images="*.jpg", labels="*.png", ids="train")
    (scene,) = find_scenes(dataset)
    image, read = load_pair(scene)
    np.testing.assert_array_equal(read, label)
    np.testing.assert_array_equal(image[..., 0] > 127, label == 1)
    assert pair_size(scene) == label.shape


def test_a_label_map_is_never_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(label).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_label_map(tmp_path / "a.png", TRAIN_IDS), label)
    assert image_size(tmp_path / "a.png", "label") == (3, 4) != image_size(tmp_path / "a.png")


def test_an_orientation_behind_the_pixels_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    rows = [bytes(6), bytes(6)]
    path = png(tmp_path / "a.png", rows, (2, 6), 8, 0, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    with pytest.raises(UserError, match=r"a.png: its EXIF orientation stands behind its pixels"):
        read_image(path)


@pytest.mark.parametrize(("bits", "color"), [(1, 0), (2, 0), (4, 0), (1, 3), (2, 3), (4, 3)])
def test_case_f11_low_bit_depths_give_the_stored_value(tmp_path: Path, bits: int, color: int) -> None:
    """four.png of case F11 (4-bit gray: 0 and 1 were read as 0 and 17), and the other depths, gray and palette."""
    values = np.arange(2**bits, dtype=np.uint8).repeat(8)  # whole bytes at any depth
    packed = np.packbits(np.unpackbits(values[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes()
    path = png(tmp_path / "a.png", [packed, packed], (2, len(values)), bits, color)
    np.testing.assert_array_equal(load_label_map(path, TRAIN_IDS), [values, values])
    assert np.flatnonzero(open_label(path).histogram()).tolist() == list(range(2**bits))


def test_two_colors_in_a_bitmap(tmp_path: Path) -> None:
    label = np.array([[0, 1, 1, 0]], np.uint8)
    Image.fromarray(label.astype(bool)).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(load_label_map(tmp_path / "a.bmp", TRAIN_IDS), label)


def test_a_png_that_hides_its_bit_depth_is_refused(tmp_path: Path) -> None:
    """Phones' tools put a chunk before the header; Pillow does not mind, but the depth stands elsewhere then."""
    whole = png(tmp_path / "a.png", [bytes([0x01]), bytes([0x23])], (2, 2), 4, 0).read_bytes()
    other = struct.pack(">I4sI", 0, b"teXt", zlib.crc32(b"teXt"))
    (tmp_path / "a.png").write_bytes(whole[:8] + other + whole[8:])
    with pytest.raises(UserError, match=r"a.png: .*(IHDR chunk|cannot be read as an image)"):
        open_label(tmp_path / "a.png")


@pytest.mark.parametrize("step", [1, 17])
def test_a_bitmap_of_four_bits_is_read_as_stored_or_refused(tmp_path: Path, step: int) -> None:
    """Pillow takes two px of it for one where its palette is gray 0, 1, 2, ...: 1 and 35 instead of 0 and 1."""
    palette = b"".join(bytes([step * value] * 3 + [0]) for value in range(16))
    pixels = bytes.fromhex("01234567") + bytes.fromhex("89abcdef")
    header = struct.pack("<IiiHHIIiiII", 40, 8, 2, 1, 4, 0, len(pixels), 0, 0, 16, 0)
    start = 14 + len(header) + len(palette)
    path = tmp_path / "a.bmp"
    path.write_bytes(struct.pack("<2sIII", b"BM", start + len(pixels), 0, start) + header + palette + pixels)
    if step == 17:
        np.testing.assert_array_equal(load_label_map(path, TRAIN_IDS), [range(8, 16), range(8)])
        return
    for read in (open_label, read_image):
        with pytest.raises(UserError, match=r"a.bmp: cannot be read, a bitmap of 4 bits with a gray palette: save"):
            read(path)


@pytest.mark.parametrize(
    ("name", "pixels", "options", "reason"),
    [
        ("a.jpg", PIXELS[..., 0], {}, "is a JPEG file; JPEG changes ids, save label maps as PNG"),
        ("a.png", PIXELS[..., 0], {"format": "JPEG"}, "is a JPEG file; JPEG changes ids"),
        ("a.webp", PIXELS, {}, "is a WEBP file; WEBP may change ids, save label maps as PNG"),
        ("a.tif", PIXELS[..., 0], {}, "is a TIFF file; TIFF may change ids"),
        ("a.png", PIXELS[..., :2], {}, "got Pillow mode 'LA'"),
        ("a.png", PIXELS, {}, "got Pillow mode 'RGB'"),
        ("a.png", PIXELS[..., 0].astype(np.uint16), {}, "got Pillow mode 'I;16' of 16 bits per channel"),
    ],
)
def test_case_07_label_maps_that_are_refused(
    tmp_path: Path, name: str, pixels: np.ndarray, options: dict[str, Any], reason: str
) -> None:
    Image.fromarray(pixels).save(tmp_path / name, **options)
    with pytest.raises(UserError) as error:
        load_label_map(tmp_path / name, TRAIN_IDS)
    assert str(tmp_path / name) in str(error.value) and reason in str(error.value)


def test_photographs_of_16_bits_are_refused(tmp_path: Path) -> None:
    png(tmp_path / "rgb.png", [bytes(36)] * 4, (4, 6), 16, 2)
    png(tmp_path / "rgba.png", [bytes(48)] * 4, (4, 6), 16, 6)
    Image.fromarray(PIXELS[..., 0].astype(np.uint16)).save(tmp_path / "gray.tif")
    for name in ("rgb.png", "rgba.png", "gray.tif"):
        with pytest.raises(UserError, match=r"wanted a photograph of 8 bits per channel.* of 16 bits per channel"):
            read_image(tmp_path / name)


def test_alpha_and_gray_photographs_are_read_as_stored(tmp_path: Path) -> None:
    alpha = np.concatenate([PIXELS, np.zeros((4, 6, 1), np.uint8)], axis=2)
    Image.fromarray(alpha).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), PIXELS)
    Image.fromarray(PIXELS[..., :2]).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), PIXELS[..., :1].repeat(3, axis=2))


def test_a_color_profile_changes_nothing(tmp_path: Path) -> None:
    """Stored values are what networks were trained on, whatever a viewer makes of them."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PIXELS)


def test_a_file_of_another_kind_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS named .png: Pillow would hand it to Ghostscript."""
    Image.fromarray(PIXELS).save(tmp_path / "a.eps")
    path = (tmp_path / "a.eps").rename(tmp_path / "a.png")

    def started(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "check_call", started)
    monkeypatch.setattr(subprocess, "Popen", started)
    for read in (read_image, open_label, image_size):
        with pytest.raises(UserError, match=r"a.png: cannot be read as an image of PNG, JPEG, WEBP, BMP, TIFF"):
            read(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger")
def test_damaged_files_are_one_line_each(tmp_path: Path) -> None:
    """Random bytes changed and ends cut off: pixels, or a UserError of one line, never another exception."""
    random, path = np.random.default_rng(1), tmp_path / "a"
    said: list[str] = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[274] = 6
        Image.fromarray(PIXELS).save(buffer, kind, exif=exif)
        for _ in range(60):
            content = np.frombuffer(buffer.getvalue(), np.uint8).copy()
            content[random.integers(0, min(len(content), 200), 3)] = random.integers(0, 256, 3)
            path.write_bytes(content[: len(content) - random.integers(0, 40)].tobytes())
            for work in (read_image, open_label, image_size):
                try:
                    work(path)
                except UserError as error:
                    said.append(str(error))
    assert 60 < len(said) < 720 and not any("\n" in line for line in said)
