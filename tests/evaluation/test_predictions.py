"""Predictions as files: values, sizes, turned photographs, what was interrupted, videos."""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from evaluation.inference import PredictedLabels
from evaluation.predictions import OPACITY, PictureFiles, Unread, Written, open_output, write_predictions, write_sheet
from evaluation.resizing import Size
from evaluation.videos import frames, open_video, write_overlay_video
from pipeline.data.image_files import read_image
from pipeline.data.labels import CITYSCAPES_IDS, CLASSES
from pipeline.errors import UserError
from pipeline.work.progress import silent

TRAIN_IDS = PictureFiles()


class ByRed:
    """A predictor whose classes are read off the red channel, which counts its calls."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray, size: Size) -> PredictedLabels:
        self.seen.append((*images.shape[:3], *size))
        return PredictedLabels(images[..., 0] % 19, (images[..., 1] / 255).astype(np.float32))


def picture(number: int, height: int = 12, width: int = 20) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)


def written(
    output: Path, pictures: dict[str, np.ndarray], predict: ByRed, wanted: PictureFiles = TRAIN_IDS, batch: int = 2
) -> Written:
    unread = [Unread(name, partial(np.asarray, pixels)) for name, pixels in pictures.items()]
    return write_predictions(
        unread, output, [predict], lambda size: size, wanted, silent, total=len(unread), batch_size=batch
    )


def stored(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_label_maps_hold_train_ids_label_ids_or_colors(tmp_path: Path) -> None:
    pixels = picture(1)
    truth = pixels[..., 0] % 19
    back = {train_id: stored_id for stored_id, train_id in CITYSCAPES_IDS.items()}
    for ids in ("train", "cityscapes", "color"):
        written(tmp_path / ids, {"town/a": pixels}, ByRed(), PictureFiles(ids))
    found = {ids: stored(tmp_path / ids / "labels" / "town" / "a.png") for ids in ("train", "cityscapes", "color")}
    assert (found["train"] == truth).all()
    assert (found["cityscapes"] == np.vectorize(back.__getitem__)(truth)).all()
    assert (found["color"] == np.array([c.color for c in CLASSES])[truth]).all()


def test_overlays_and_confidence(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 3), (13, 51, 200), np.uint8)  # class 13, sure by a fifth
    written(tmp_path, {"a": pixels}, ByRed(), PictureFiles(confidence=True))
    assert (stored(tmp_path / "confidence" / "a.png") == 51).all()
    mixed = (1 - OPACITY) * pixels + OPACITY * np.array(CLASSES[13].color)
    assert np.abs(stored(tmp_path / "overlays" / "a.jpg") - mixed).max() <= 3  # JPEG
    written(tmp_path / "bare", {"a": pixels}, ByRed(), PictureFiles(overlays=False))
    assert sorted(path.name for path in (tmp_path / "bare").iterdir()) == ["labels", "skipped.json"]


def test_only_neighbors_of_one_size_are_predicted_together(tmp_path: Path) -> None:
    sizes = [(12, 20)] * 3 + [(8, 8)] + [(12, 20)]
    predict = ByRed()
    written(tmp_path, {str(k): picture(k, *size) for k, size in enumerate(sizes)}, predict, batch=2)
    assert [shape[0] for shape in predict.seen] == [2, 1, 1, 1]
    assert [stored(tmp_path / "labels" / f"{k}.png").shape for k in range(5)] == sizes


def test_what_is_done_is_not_done_again_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    pictures = {str(k): picture(k) for k in range(4)}
    written(tmp_path / "out", dict(list(pictures.items())[:2]), ByRed())
    before = (tmp_path / "out" / "labels" / "0.png").stat().st_mtime_ns
    predict = ByRed()
    unread = [Unread(name, partial(np.asarray, pixels)) for name, pixels in pictures.items()]
    unread.insert(1, Unread("bad", partial(read_image, tmp_path / "bad.png")))
    result = write_predictions(unread, tmp_path / "out", [predict], lambda size: size, PictureFiles(), silent, total=5)
    assert result.predicted == len(predict.seen) == 2
    assert list(result.skipped) == ["bad"] and "bad.png" in result.skipped["bad"]
    assert (tmp_path / "out" / "labels" / "0.png").stat().st_mtime_ns == before


def test_a_turned_photograph_is_predicted_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turned a quarter
    lying = picture(3)
    Image.fromarray(lying).save(tmp_path / "a.png", exif=exif)
    unread = [Unread("a", partial(read_image, tmp_path / "a.png"))]
    write_predictions(unread, tmp_path, [ByRed()], lambda size: size, PictureFiles(), silent, total=1)
    assert (stored(tmp_path / "labels" / "a.png") == np.rot90(lying[..., 0] % 19, -1)).all()


def test_another_model_or_size_does_not_write_into_the_same_folder(tmp_path: Path) -> None:
    open_output(tmp_path / "out", {"model": "a", "size": [1, 2]})
    open_output(tmp_path / "out", {"model": "a", "size": [1, 2]})
    with pytest.raises(UserError, match="another size"):
        open_output(tmp_path / "out", {"model": "a", "size": [2, 2]})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        open_output(tmp_path / "full", {"model": "a"})


@pytest.fixture
def ride(tmp_path: Path) -> Path:
    """Six frames, brighter and brighter."""
    file = tmp_path / "ride.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for level in range(6):
        writer.write(np.full((48, 64, 3), 40 * level, np.uint8))
    writer.release()
    return file


def test_a_video_is_its_frames_in_order_and_comes_back_with_as_many(ride: Path, tmp_path: Path) -> None:
    video = open_video(ride)
    assert (video.size, video.rate, video.length) == ((48, 64), 10, 6)
    found = list(frames(video, "ride"))
    assert [frame.name for frame in found] == [f"ride/{k:06d}" for k in range(6)]
    assert [round(float(frame.read().mean()) / 40) for frame in found] == list(range(6))
    write_predictions(found, tmp_path, [ByRed()], lambda size: size, PictureFiles(), silent, total=6)
    ride.unlink()
    overlaid = open_video(write_overlay_video(video, tmp_path, "ride"))
    assert (overlaid.size, overlaid.rate, overlaid.length) == ((48, 64), 10, 6)


def test_what_is_no_video_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="cannot be read as a video"):
        open_video(tmp_path / "a.mp4")


def test_the_sheet_shows_pictures_evenly_spread(tmp_path: Path) -> None:
    levels = {f"{k:03d}": np.full((32, 40, 3), 5 * k, np.uint8) for k in range(50)}
    written(tmp_path, levels, ByRed())
    sheet = write_sheet(tmp_path, list(levels))
    assert sheet is not None
    assert stored(sheet).shape[0] == 6 * (8 * 32 + 4)  # 24 pictures, 4 in a row, enlarged 8 times
    assert write_sheet(tmp_path / "none", ["a"]) is None
