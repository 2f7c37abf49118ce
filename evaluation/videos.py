"""Videos: their frames as pictures, and the same frames with predictions over them. OpenCV reads and writes them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image

from evaluation.predictions import OVERLAYS, Unread
from pipeline.data.pictures import Picture
from pipeline.errors import UserError
from pipeline.files import written_whole

ENDINGS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
CODEC = "mp4v"  # the one that OpenCV's wheels write on every system


class Video(NamedTuple):
    """A video file: its size and rate, and how many frames (its length) its header states (0: unknown)."""

    path: Path
    size: tuple[int, int]
    rate: float
    length: int


def open_video(path: Path) -> Video:
    """Reads a video's header. UserError where it cannot be read."""
    cv2 = _opencv(path)
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UserError(f"{path}: cannot be read as a video; convert it to MP4 (H.264), or extract its frames")
        width, height, count = (
            int(capture.get(key))
            for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)
        )
        return Video(path, (height, width), capture.get(cv2.CAP_PROP_FPS) or 25.0, max(0, count))
    finally:
        capture.release()


def frames(video: Video, name: str) -> Iterator[Unread]:
    """The frames in their order, upright, named `NAME/000000` and so on."""
    cv2 = _opencv(video.path)
    capture = cv2.VideoCapture(str(video.path))
    number = 0
    try:
        while True:
            read, frame = capture.read()
            if not read:
                break
            yield Unread(f"{name}/{number:06d}", partial(np.ascontiguousarray, frame[..., ::-1]))  # OpenCV gives BGR
            number += 1
    finally:
        capture.release()
    if not number:
        raise UserError(f"{video.path}: not one frame of this video can be decoded; convert it to MP4 (H.264)")


def write_overlay_video(video: Video, output: Path, name: str) -> Path:
    """Joins the overlays of a video's frames to `OUTPUT/NAME.mp4`."""
    cv2 = _opencv(video.path)
    file = output / f"{name}.mp4"
    overlays = sorted((output / OVERLAYS / name).glob("*.jpg"))
    unfinished = file.with_name(f".{file.name}.tmp.mp4")  # OpenCV tells the format from the ending
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file, unfinished=unfinished):
        writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*CODEC), video.rate, video.size[::-1])
        if not writer.isOpened():
            raise UserError(
                f"{file}: this OpenCV writes no MP4; the overlays lie as pictures in {output / OVERLAYS / name}"
            )
        for overlay in overlays:
            writer.write(_pixels(overlay)[..., ::-1])
        writer.release()
    return file


def _pixels(file: Path) -> Picture:
    with Image.open(file, formats=("JPEG",)) as image:
        return np.asarray(image)


def _opencv(path: Path) -> ModuleType:
    try:
        import cv2  # comes with controlnet-aux
    except ImportError as error:
        raise UserError(
            f"{path} is a video, which OpenCV reads: pip install opencv-python-headless, or extract its frames"
        ) from error
    return cv2
