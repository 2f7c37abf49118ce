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

Filter = Literal["antialiased", "released"]


def resized_pair(
    image: np.ndarray, label: np.ndarray, size: tuple[int, int] | None, how: Filter = "antialiased"
) -> tuple[np.ndarray, np.ndarray]:
    """Image (H,W,3) uint8 and label (H,W) uint8 at `size` (height, width) px; as they are where it is None."""
    if size is None:
        return image, label
    width_height = size[1], size[0]
    if how == "antialiased":
        small = Image.fromarray(image).resize(width_height, Image.Resampling.BILINEAR)
        return np.asarray(small), np.asarray(Image.fromarray(label).resize(width_height, Image.Resampling.NEAREST))
    cv2 = _opencv()
    return (
        np.asarray(cv2.resize(image, width_height, interpolation=cv2.INTER_LINEAR)),
        np.asarray(cv2.resize(label, width_height, interpolation=cv2.INTER_NEAREST)),
    )


@cache
def _opencv() -> ModuleType:
    """OpenCV without threads of its own: a loader has a process per core, and threads do not survive its fork."""
    import cv2

    cv2.setNumThreads(0)
    return cv2
