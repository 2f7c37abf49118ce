"""Image files: read whole and of a known kind, or a one-line error that says what is wrong with which file.

Decoders change pixels without a word: they rotate or do not, widen low bit depths, halve high ones. What is read here
is either exactly what was meant or refused by name and reason:

- a *photograph* is 8-bit RGB as it stands in the file, turned upright as its EXIF orientation says. A colour profile is
  not applied: networks are trained on stored values, as the published ones were. Alpha is dropped.
- a *label map* is the file's stored values, whatever the palette, never turned, from lossless formats alone.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from pipeline.errors import UserError, one_line

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""What Pillow may take a file for (JPEG includes phones' multi-picture files). Others it would read by starting another
program (EPS), or are no photographs."""
LABEL_FORMATS = ("PNG", "BMP")
"""Lossless ones whose stored values Pillow gives back."""
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError,
    OverflowError, MemoryError,
)  # fmt: skip
"""What Pillow was seen to raise, or documents, on bytes that are no picture."""

Kind = Literal["image", "label"]

_PHOTOGRAPH_MODES = ("RGB", "RGBA", "L", "LA", "P")
_LABEL_MODES = ("L", "P", "1")
_SWAPPED = range(5, 9)
"""Values of the EXIF orientation that exchange height and width."""


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a photograph, upright. UserError if the file is missing, truncated, no image of `FORMATS`,
    or not of 8 bits per channel."""
    with _opened(path) as image:
        if image.mode not in _PHOTOGRAPH_MODES or _bits(path, image) > 8:
            raise _refused(path, image, "a photograph of 8 bits per channel, gray or RGB")
        _check_bitmap(path, image, _bits(path, image))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if pixels.shape[:2] != image_size(path):  # a PNG may tell it behind the pixels, where no header is looked for
        raise UserError(f"{path}: its EXIF orientation stands behind its pixels: save the image again, upright")
    return pixels


def open_label(path: Path) -> Image.Image:
    """A label map as an image of mode "L" or "P" whose pixels are the file's stored values: gray levels, or indices of
    a palette.

    UserError if the file is missing, truncated, of a lossy or another format, or not of one channel of at most 8 bits.
    """
    with _opened(path) as image:
        if image.format not in LABEL_FORMATS:
            why = "JPEG changes ids" if image.format in ("JPEG", "MPO") else f"{image.format} may change ids"
            raise UserError(f"{path}: this label map is a {image.format} file; {why}, save label maps as PNG")
        if image.mode not in _LABEL_MODES:
            raise _refused(path, image, "a label map of one channel and at most 8 bits, gray or palette, of ids")
        bits = _bits(path, image)
        _check_bitmap(path, image, bits)
        image.load()
        if image.mode == "L" and bits < 8:  # which Pillow has stretched to 0..255
            return image.point([value * (2**bits - 1) // 255 for value in range(256)])
        if image.mode == "1":
            return Image.fromarray(np.asarray(image).astype(np.uint8))
        return image


def image_size(path: Path, kind: Kind = "image") -> tuple[int, int]:
    """(H, W) in px, from the file's header alone: that of an image is the size once it stands upright."""
    with _opened(path) as image:
        if kind == "image" and image.format != "TIFF" and _orientation(image) in _SWAPPED:
            return image.width, image.height
        return image.height, image.width


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, as far as the header tells it."""
    # Not a PNG's own method, which decodes all pixels in search of a chunk behind them.
    value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def _bits(path: Path, image: Image.Image) -> int:
    """Bits per channel as the file stores them, which Pillow's mode does not tell."""
    if image.format == "PNG":
        with path.open("rb") as file:
            header = file.read(25)  # signature, length, "IHDR", width, height, bit depth
        if header[12:16] != b"IHDR":
            raise UserError(f"{path}: a PNG file that does not begin with its IHDR chunk: save the image again")
        return header[24]
    if image.format == "BMP" and image.mode == "L":
        with path.open("rb") as file:
            header = file.read(30)
        # The file's header is followed by the picture's, which begins with its own length: 12 in OS/2's.
        return int.from_bytes(header[24:26] if header[14] == 12 else header[28:30], "little")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(258, (1,)))  # BitsPerSample
    return 8


def _check_bitmap(path: Path, image: Image.Image, bits: int) -> None:
    """UserError for a bitmap of 2 or 4 bits with a palette of grays 0, 1, 2, ...: Pillow takes each byte of it for one
    px of 8 bits, and gives a wrong picture without a word."""
    if image.format == "BMP" and image.mode == "L" and bits != 8:
        raise UserError(f"{path}: cannot be read, a bitmap of {bits} bits with a gray palette: save it as PNG")


def _refused(path: Path, image: Image.Image, wanted: str) -> UserError:
    bits = _bits(path, image)
    depth = f" of {bits} bits per channel" if bits > 8 else ""
    return UserError(f"{path}: wanted {wanted}, got Pillow mode {image.mode!r}{depth}; convert the file first")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large maps are wanted here
            image = Image.open(path, formats=FORMATS)
        with image:
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{path}: file not found") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"{path}: too large, an image may have {most:,} px: shrink or cut it") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path}: cannot be read as an image of {', '.join(FORMATS)}; it is of another kind, or truncated: convert"
            " it or get it again"
        ) from error
    except PILLOW_ERRORS as error:
        raise UserError(
            f"{path}: cannot be read as an image ({one_line(error)}); it may be truncated: get the file again"
        ) from error
