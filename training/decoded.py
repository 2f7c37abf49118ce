"""Decoded pictures on a fast disk, so that what is trained on again and again is decompressed once.

Decompressing a PNG file of GTA's size takes most of the time that a crop takes (benchmarks/loader.py). A copy holds the
px as they are and a checksum, and belongs to one state of its file: one that has changed since is decoded anew.
"""

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipeline.files import written_whole
from pipeline.store.manifest import canonical_digest

_HEAD = struct.Struct("<4I")
"""Height, width, channels, CRC-32 of the px."""


class DecodedCopies:
    """The copies in `folder`. Where it cannot be written to, or is full, that costs time only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, file: Path, what: object, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """What `decode` gives, (H,W,C) or (H,W) uint8, or gave when it was first asked for. `what` (plain values) tells
        apart what can be made of one file."""
        try:
            status = file.stat()
        except OSError:
            return decode()  # which says what is wrong with it
        state = [str(file.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, what]
        copy = self.folder / f"{canonical_digest(state)}.px"
        pixels = _read(copy)
        if pixels is None:
            pixels = decode()
            with suppress(OSError):
                _write(copy, pixels)
        return pixels


def _read(copy: Path) -> np.ndarray | None:
    """The px of a copy; None where there is none, or it is damaged."""
    try:
        content = np.fromfile(copy, np.uint8)
    except OSError:
        return None
    if len(content) < _HEAD.size:
        return None
    height, width, channels, checksum = _HEAD.unpack(content[: _HEAD.size].tobytes())
    pixels = content[_HEAD.size :]
    if len(pixels) != height * width * max(channels, 1) or zlib.crc32(pixels.data) != checksum:
        return None
    return pixels.reshape((height, width, channels) if channels else (height, width))


def _write(copy: Path, pixels: np.ndarray) -> None:
    pixels = np.ascontiguousarray(pixels)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(copy, durable=False) as unfinished, unfinished.open("wb") as file:
        height, width, *channels = pixels.shape
        file.write(_HEAD.pack(height, width, channels[0] if channels else 0, zlib.crc32(pixels.data)))
        file.write(pixels.tobytes())
