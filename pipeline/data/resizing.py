"""An image and its label map at another size, by one of two filters.

`antialiased` is Pillow's: a px of a smaller image is the mean of all that it covers, weighted by a triangle; labels are
taken at its center. `released` is what mmcv, and so the released code of the papers, calls: OpenCV's bilinear filter,
which looks at the four nearest px alone, and its nearest one, which takes a label at the upper left corner.
"""

from functools import cache
from types import ModuleType
from typing import Literal

import numpy as np
from PIL import Image

from pipeline.requests import Box

Filter = Literal["antialiased", "released"]
Size = tuple[int, int] | None
"""Height and width in px, None for an image's own."""


def resized_image(image: np.ndarray, size: Size, how: Filter = "antialiased", box: Box | None = None) -> np.ndarray:
    """What an image (H,W,3) uint8 shows at `size` within `box`, by default all of it.

    The antialiased filter, which takes longest, computes nothing beyond the box. Px may differ from those of the whole
    image at that size by one step of 255, as Pillow keeps a box in 32 bits: of GTA's size at most 1 in 2,000 did.
    """
    height, width = image.shape[:2]
    box = box or Box(0, 0, *(size or (height, width)))
    if size is None or size == (height, width):
        return cut(image, box)
    if how == "released":
        cv2 = _opencv()
        return cut(np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)), box)
    down, right = height / size[0], width / size[1]
    bottom, end = min((box.top + box.height) * down, height), min((box.left + box.width) * right, width)
    part = box.left * right, box.top * down, end, bottom
    return np.asarray(Image.fromarray(image).resize((box.width, box.height), Image.Resampling.BILINEAR, part))


def resized_label(label: np.ndarray, size: Size, how: Filter = "antialiased") -> np.ndarray:
    """A label map (H,W) uint8 at `size`."""
    if size is None:
        return label
    if how == "antialiased":
        return np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
    cv2 = _opencv()
    return np.asarray(cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST))


def cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """The part (h,w) or (h,w,C) of an image or label map that lies in a box."""
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]


@cache
def _opencv() -> ModuleType:
    """OpenCV without threads of its own: a loader has a process per core, and threads do not survive its fork."""
    import cv2

    cv2.setNumThreads(0)
    return cv2
