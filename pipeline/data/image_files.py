"""Image files: read whole and of a known kind, or a one-line error that says what is wrong with which file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import UserError


def read_pixels(path: Path, modes: tuple[str, ...], wanted: str, convert: str | None = None) -> np.ndarray:
    """The file's pixels as Pillow gives them, (H, W) or (H, W, C), after an optional conversion to mode `convert`.

    UserError if the file is missing, truncated, no image, or of a mode that is not in `modes`; `wanted` describes
    what is accepted.
    """
    with _opened(path) as image:
        if image.mode not in modes:
            raise UserError(f"{path}: wanted {wanted}, got Pillow mode {image.mode!r}; convert the file first")
        return np.asarray(image.convert(convert) if convert else image)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) in px, from the file's header alone."""
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large maps are wanted here
            image = Image.open(path)
        with image:
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{path}: file not found") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"{path}: too large, an image may have {most:,} px: shrink or cut it") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
    ) as error:  # all that Pillow raises on bad files
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read as an image ({reason}); it may be truncated: get the file again"
        ) from error
