"""Crops: where they are cut, that image and label show one place, and that copies of decoded files change nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.labels import TRAIN_IDS
from pipeline.data.resizing import cut
from pipeline.requests import Box
from training.data import CACHE_BYTES, TrainingSet, loader_rate, moved
from training.decoded import DecodedCopies
from training.draws import Draw, Drawer
from training.pools import ImagePool, RememberedPool, ScenePool


class _OnePair(ImagePool):
    """One image and its label map."""

    def __init__(self, image: np.ndarray, label: np.ndarray) -> None:
        self._pair = image, label

    def __len__(self) -> int:
        return 1

    def label(self, index: int) -> np.ndarray:
        return self._pair[1]

    def image(self, index: int, box: Box) -> np.ndarray:
        return cut(self._pair[0], box)


def test_the_loader_is_measured_by_images(tiny_config: TrainingConfig, scenes: list[Scene]) -> None:
    drawer = Drawer(tiny_config, Method(), 0, [len(scenes)], None)
    samples = TrainingSet([ScenePool(scenes, None)], tiny_config, 0)
    assert loader_rate(samples, drawer.block(0, 8), workers=0) > 0


def test_a_crop_of_one_class_is_drawn_again(tiny_config: TrainingConfig) -> None:
    """Against mmseg's rule, counted on the crops themselves: with 0.75, crops of nearly one class become rare; with 1
    nothing changes; where nothing else is there, the last try is taken."""
    label = np.zeros((64, 256), np.uint8)
    label[:, 160:] = np.arange(96)[None] // 8  # the left five eighths show one class only
    label[:8] = 255

    def monotonous(share: float) -> float:
        config = tiny_config.of(Method(training={"crop_class_share": share}))
        samples = TrainingSet([_OnePair(np.zeros((64, 256, 3), np.uint8), label)], config, 0)
        crops = [np.asarray(samples[Draw(0, 0, -1, k, 0)].label) for k in range(300)]
        counts = [np.bincount(crop[crop < 255]) for crop in crops]
        return float(np.mean([count.max() >= 0.75 * count.sum() for count in counts]))

    assert monotonous(1.0) > 0.5
    assert monotonous(0.75) < 0.1
    label[:] = 3
    assert monotonous(0.75) == 1


def test_a_moved_label_map_is_the_old_one_px_by_px() -> None:
    label = np.random.default_rng(0).integers(0, 19, (6, 9), dtype=np.uint8)
    for down, right in ((0, 0), (2, 0), (0, -3), (-1, 4), (8, 1)):
        found = moved(label, (down, right))
        assert found.shape == label.shape
        for y in range(6):
            for x in range(9):
                inside = 0 <= y - down < 6 and 0 <= x - right < 9
                assert found[y, x] == (label[y - down, x - right] if inside else 255)


def test_only_labels_of_generated_crops_are_shifted(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    """A bright square whose label is its own: the shift is how far the two are apart, in every direction."""
    picture = np.zeros((64, 64), np.uint8)
    picture[28:36, 28:36] = 5
    pool = _OnePair(np.repeat(picture[..., None], 3, 2), picture)
    changes = {"crop": (64, 64), "generated_shift": 4, "rare_classes": False}
    samples = TrainingSet([pool, pool], tiny_config.of(Method(training=changes)), 0)
    plain = TrainingSet([pool, pool], tiny_config.of(Method(training={**changes, "generated_shift": 0})), 0)
    ways = []
    for position in range(40):
        for kind in (0, 1):
            draw = Draw(kind, 0, -1, 0, position)
            image, label, distortion = samples[draw]
            assert torch.equal(image, plain[draw].image) and torch.equal(distortion, plain[draw].distortion)
            at, lies = (np.argwhere(np.asarray(values) == 5).mean(0) for values in (image[0], label))
            if kind == 0:
                assert (at == lies).all()
            else:
                ways.append(lies - at)
    assert all(abs(np.hypot(*way) - 4) <= 0.75 for way in ways)
    assert {tuple(np.sign(way)) for way in ways} >= {(-1, -1), (-1, 1), (1, -1), (1, 1)}


def test_a_crop_is_the_image_and_label_of_one_place(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    """Image and label hold where each px lies; what the crop shows must agree, resized, flipped, remembered or not."""
    rows, columns = np.mgrid[:60, :120]
    Image.fromarray(np.stack([rows, columns, rows], axis=2).astype(np.uint8)).save(tmp_path / "image.png")
    Image.fromarray((columns // 8).astype(np.uint8)).save(tmp_path / "label.png")
    scene = Scene("0", tmp_path / "image.png", tmp_path / "label.png", TRAIN_IDS)
    for how in ("antialiased", "released"):
        config = tiny_config.of(Method(training={"source_size": (120, 240), "source_filter": how}))
        many = CACHE_BYTES // (120 * 240 * 4) + 1
        kept, read_anew = (TrainingSet([ScenePool.of([scene] * times, config)], config, 0) for times in (1, many))
        assert isinstance(kept.pools[0], RememberedPool) and not isinstance(read_anew.pools[0], RememberedPool)
        flips = 0
        for k in range(12):
            batch, same = (samples[Draw(0, 0, -1, k, 0)] for samples in (kept, read_anew))
            assert torch.equal(batch.label, same.label) and (batch.image.int() - same.image).abs().max() <= 1
            column, step = batch.image[1].float(), 1 if batch.image[1, 0, 0] < batch.image[1, 0, -1] else -1
            assert (column / 8 - batch.label).min() >= -0.2 and (column / 8 - batch.label).max() <= 1.2
            assert (batch.image[0].diff(dim=0).int() % 256 <= 1).all()
            flips += step < 0
        assert 0 < flips < 12


def test_decoded_copies_give_what_the_files_hold(
    scenes: list[Scene], tiny_config: TrainingConfig, tmp_path: Path
) -> None:
    """Until a file changes, or a copy is damaged; a folder that cannot be written to costs time only."""
    config, place = tiny_config.of(Method(training={"source_size": (48, 96)})), tmp_path / "copies"
    plain, copied = ScenePool.of(scenes, config), ScenePool.of(scenes, config, DecodedCopies(place))

    def same() -> bool:
        return all(
            np.array_equal(one, other)
            for index in range(len(scenes))
            for one, other in zip(plain.read(index), copied.read(index), strict=True)
        )

    assert same()
    assert len(list(place.iterdir())) == 2 * len(scenes)
    assert sum(copy.stat().st_size for copy in place.iterdir()) == len(scenes) * (32 * 64 * 4 + 2 * 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.pools.load_image", lambda scene: pytest.fail("decoded again"))
        patch.setattr("training.pools.load_label_map", lambda *arguments: pytest.fail("decoded again"))
        for index in range(len(scenes)):
            copied.read(index)
    first, second, *_ = sorted(place.iterdir())
    content = bytearray(first.read_bytes())
    content[100] ^= 1
    first.write_bytes(content)
    second.write_bytes(b"")
    assert same()
    shutil.copyfile(scenes[1].label, scenes[0].label)
    assert same()
    (tmp_path / "file").write_bytes(b"")
    copied = ScenePool.of(scenes, config, DecodedCopies(tmp_path / "file" / "copies"))
    assert same()
