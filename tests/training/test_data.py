"""Which generated images are trained on, at what size and in what mix; bad files are named in one line."""

import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.fingerprints import FileDigests
from pipeline.data.labels import TRAIN_IDS
from pipeline.data.resizing import cut
from pipeline.errors import UserError
from pipeline.requests import Box
from training.data import CACHE_BYTES, TrainingSet, loader_rate, moved
from training.decoded import DecodedCopies
from training.draws import Draw, Drawer
from training.pools import GeneratedPool, ImagePool, RememberedPool, ScenePool, data_set_fingerprint, fitting
from training.train import train

NOBODY: frozenset[str] = frozenset()


def _pool(config: TrainingConfig, folders: list[Path], **changes: object) -> GeneratedPool:
    changed = config.of(Method(training=changes))
    return GeneratedPool(folders, changed, excluded=NOBODY, copy=folders[0].parent / "copy.arrow")


def _write(folder: Path, count: int, **columns: list[object]) -> Path:
    """A data set of one shard: image k is all gray level k."""
    pictures = [np.full((16, 24), k, np.uint8) for k in range(count)]
    table = {
        "image": [Image.fromarray(picture).convert("RGB") for picture in pictures],
        "label": [Image.fromarray(np.zeros_like(picture)) for picture in pictures],
        "source": ["scene"] * count,
        **columns,
    }
    pictured = dict.fromkeys(("image", "label"), datasets.Image())
    rows = datasets.Dataset.from_dict(table).cast(
        datasets.Features({**datasets.Dataset.from_dict(table).features, **pictured})
    )
    (folder / "data").mkdir(parents=True)
    rows.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


def _levels(pool: GeneratedPool) -> list[int]:
    return [int(pool.read(index)[0][0, 0, 0]) for index in range(len(pool))]


def test_data_sets_are_joined_and_the_unaligned_left_out(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    first = _write(tmp_path / "a", 4, alignment=[0.1, 0.9, 0.5, 0.7])
    second = _write(tmp_path / "b", 2, alignment=[0.6, 0.2])
    assert _levels(_pool(tiny_config, [first, second])) == [0, 1, 2, 3, 0, 1]
    assert _levels(_pool(tiny_config, [first, second], minimum_alignment=0.5)) == [1, 2, 3, 0]
    with pytest.raises(UserError, match="minimum_alignment"):
        _pool(tiny_config, [first, second], minimum_alignment=0.95)
    bare = _write(tmp_path / "c", 2)
    with pytest.raises(UserError, match="no column 'alignment'"):
        _pool(tiny_config, [bare], minimum_alignment=0.5)


def test_a_larger_limit_adds_images_to_a_smaller_one(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    folder = _write(tmp_path / "a", 12)
    few, more = (_levels(_pool(tiny_config, [folder], generated_limit=limit)) for limit in (3, 7))
    assert len(few) == 3 and len(more) == 7
    assert set(few) < set(more)
    assert len(_pool(tiny_config, [folder], generated_limit=99)) == 12


def test_generated_images_are_resized(tiny_config: TrainingConfig, generated: Path) -> None:
    image, label = _pool(tiny_config, [generated], generated_size=(80, 96)).read(3)
    assert image.shape == (80, 96, 3)
    original = _pool(tiny_config, [generated]).read(3)[1]
    np.testing.assert_array_equal(label, original.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(("share", "wanted"), [(None, 0.25), (0.5, 0.5), (0.0, 0.0)])
def test_the_mix_is_as_stated(tiny_config: TrainingConfig, share: float | None, wanted: float) -> None:
    config = tiny_config.model_copy(update={"generated_share": share, "iterations": 2000})
    drawer = Drawer(config, Method(generated=True, has=True), 0, [30, 10], None)
    draws = [draw for batch in drawer.block(0, 2000) for draw in batch]
    assert np.mean([draw.pool for draw in draws]) == pytest.approx(wanted, abs=0.03)


def test_broken_files_are_named_in_one_line(tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path) -> None:
    assert scenes[3].image is not None
    scenes[3].image.write_bytes(scenes[3].image.read_bytes()[:200])
    with pytest.raises(UserError, match=r"3\.png: cannot be read.*truncated") as error:
        ScenePool(scenes, None).read(3)
    assert "\n" not in str(error.value)

    cut = _write(tmp_path / "cut", 3)
    shard = cut / "data" / "train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet cannot be read") as error:
        data_set_fingerprint(cut, FileDigests(None))
    assert "\n" not in str(error.value)

    values = _write(tmp_path / "values", 2, label=[Image.fromarray(np.full((16, 24), 19, np.uint8))] * 2)
    with pytest.raises(UserError, match=r"values: row 0 .* values up to 19"):
        _pool(tiny_config, [values]).read(1)
    bytes_only = {"bytes": b"\x89PNG\r\n\x1a\n", "path": None}
    damaged = _write(tmp_path / "damaged", 2, image=[bytes_only] * 2)
    with pytest.raises(UserError, match="damaged: row 0: its image cannot be decoded"):
        _pool(tiny_config, [damaged]).read(0)


def test_a_data_set_without_the_columns_is_refused(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"image": [1]}).to_parquet(tmp_path / "data" / "x.parquet")
    with pytest.raises(UserError, match=r"lacks the columns \['label', 'source'\]"):
        _pool(tiny_config, [tmp_path])


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    first, second = _write(tmp_path / "a", 2), _write(tmp_path / "b", 3)
    copy = shutil.copytree(first, tmp_path / "copy", copy_function=shutil.copyfile)  # with times of its own
    one, same, other = (data_set_fingerprint(folder, FileDigests(None)) for folder in (first, copy, second))
    assert one == same != other


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


def test_a_training_from_a_source_pool_and_back(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    changes = {"source_pool": {"pairs": 5}, "crop_class_share": 0.75, "has": {"rare_classes": True}, "iterations": 3}
    config = tiny_config.of(Method(training=changes))
    train(config, Method(has=True), 0, scenes, [], tmp_path / "run", machine=Machine(device="cpu", tracker=None))
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("size", "limit", "wanted"),
    [
        ((1052, 1914), (720, 1280), (704, 1280)),  # GTA, as the released logs show it
        ((1052, 1914), (1440, 2560), (1407, 2560)),
        ((1914, 1052), (720, 1280), (1280, 704)),  # mmcv compares the longer side with the longer
        ((512, 512), (720, 1280), (720, 720)),
        ((720, 1280), (720, 1280), (720, 1280)),
    ],
)
def test_images_keep_their_ratio_as_released(size: tuple[int, int], limit: tuple[int, int], wanted: object) -> None:
    assert fitting(size, limit) == wanted


def test_a_scene_is_resized_to_fit(scenes: list[Scene]) -> None:
    image, label = ScenePool(scenes, (48, 64), keep_ratio=True).read(0)
    assert (image.shape, label.shape) == ((32, 64, 3), (32, 64))
    assert ScenePool(scenes, (48, 64)).read(0)[1].shape == (48, 64)


def test_scenes_are_read_as_the_config_says(tiny_config: TrainingConfig, scenes: list[Scene]) -> None:
    changes = {"source_size": (24, 32), "source_keep_ratio": True}
    plain, released = (
        ScenePool.of(scenes, tiny_config.of(Method(training={**changes, **filtered}))).read(0)[0]
        for filtered in ({}, {"source_filter": "released"})
    )
    assert plain.shape == released.shape == (16, 32, 3)
    whole = ScenePool(scenes, None).read(0)[0].astype(float)
    means = (whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2]) / 4
    assert np.abs(released - means).max() < 1  # of half the size: the four nearest px, each a quarter
    assert np.abs(plain - means).max() > 5


def test_odd_folders_are_trained_on_as_they_are_spelled(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    """Cases 05 and F08 where training opens them, the run's own folder included; the pool can be sent to a worker."""
    _write(tmp_path / "set v", 4)
    folder = _write(tmp_path / "set [v]", 2, source=["a", "b"])
    pool = GeneratedPool([folder], tiny_config, excluded=NOBODY, copy=tmp_path / "do::ble [1]*" / ".copy.arrow")
    assert len(pool) == 2 and pool.names == [(folder, 0), (folder, 1)]
    sent: GeneratedPool = pickle.loads(pickle.dumps(pool))
    assert _levels(sent) == _levels(pool) == [0, 1]


def test_the_copy_of_an_earlier_start_is_made_anew(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    """A damaged or stale one is never read; a process that comes later reads what the first has written."""
    folder, copy = _write(tmp_path / "a", 20), tmp_path / "copy.arrow"
    copy.write_bytes(b"damaged")
    first = GeneratedPool([folder], tiny_config, excluded=NOBODY, copy=copy)
    second = GeneratedPool([folder], tiny_config, excluded=NOBODY, copy=copy, write=False)
    assert _levels(second) == _levels(first) == list(range(20))
    assert [path.name for path in tmp_path.iterdir()].count("copy.arrow") == 1


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
