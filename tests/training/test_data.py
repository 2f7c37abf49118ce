"""Which generated images are trained on, at what size and in what mix; bad files are named in one line."""

import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.fingerprints import FileDigests
from pipeline.errors import UserError
from training.draws import Drawer
from training.pools import GeneratedPool, ScenePool, data_set_fingerprint, fitting
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
