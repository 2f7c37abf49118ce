"""Small pictures for people: label maps in the Cityscapes palette, data URIs, images side by side."""

import base64
import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.labels import CLASSES, IGNORE

Picture = NDArray[np.uint8]
"""(H,W,3) RGB."""

IGNORE_COLOR = (0, 0, 0)
PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[: len(CLASSES)] = [segmentation_class.color for segmentation_class in CLASSES]
PALETTE[IGNORE] = IGNORE_COLOR


def colorize(label: NDArray[np.uint8]) -> Picture:
    """(H,W) train ids -> (H,W,3) in the classes' colors, ignored pixels black."""
    return PALETTE[label]


def png(pixels: NDArray[np.uint8]) -> bytes:
    """(H,W) or (H,W,3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def label_png(label: NDArray[np.uint8]) -> bytes:
    """(H,W) train ids as a palette PNG file: its values are the ids, and a viewer shows the classes' colors."""
    image, buffer = Image.fromarray(label), io.BytesIO()
    image.putpalette(PALETTE.tobytes())
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def fit(picture: Picture, longest_px: int, resample: Image.Resampling = Image.Resampling.BOX) -> Picture:
    """The picture with its longest side at most, and at least half of, `longest_px`.

    Larger ones are shrunk by `resample` (labels need NEAREST), smaller ones enlarged a whole number of times, so that
    every pixel stays a sharp square.
    """
    height, width = picture.shape[:2]
    factor = longest_px / max(height, width)
    if factor >= 1:
        return picture.repeat(int(factor), axis=0).repeat(int(factor), axis=1)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(picture).resize(size, resample))


def side_by_side(pictures: Sequence[Picture], gap_px: int = 4) -> Picture:
    """One row of equally high pictures with white gaps between them."""
    gap = np.full((pictures[0].shape[0], gap_px, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(row[1:], axis=1)


def data_uri(picture: Picture, encoding: Literal["PNG", "JPEG"] = "PNG") -> str:
    """The picture as a `data:` address. PNG is exact; JPEG (quality 90) is for photographs."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, encoding, optimize=True, quality=90)
    return file_uri(buffer.getvalue(), f"image/{encoding.lower()}")


def file_uri(content: bytes, mime_type: str) -> str:
    """A file's content as a `data:` address."""
    return f"data:{mime_type};base64,{base64.b64encode(content).decode('ascii')}"
