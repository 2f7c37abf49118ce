"""Plans: deterministic, independent requests drawn by rare-class sampling."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from generation.crops import LabelReader, check_crops_fit, draw_crop, one_hot, shrink
from generation.plan import plan
from pipeline.config.data import Dataset
from pipeline.config.generation import GenerationConfig
from pipeline.data.datasets import Scene, find_scenes
from pipeline.data.labels import CLASS_NAMES, load_label_map
from pipeline.data.rare_classes import rare_class_probabilities
from pipeline.data.statistics import count_labels
from pipeline.errors import UserError
from pipeline.requests import Box
from pipeline.work.threads import in_order


def config(**changes: object) -> GenerationConfig:
    settings = {"weights": "none", "counts": {"sunny": 20, "night": 20}, "size": (32, 64), "rare_class_pixels": 100}
    return GenerationConfig.model_validate({**settings, **changes})


def test_same_plan_twice_and_other_seed_other_plan(scenes: list[Scene]) -> None:
    first, again, other = plan(config(), scenes), plan(config(), scenes), plan(config(seed=1), scenes)
    assert [r.digest for r in first] == [r.digest for r in again]
    assert {r.seed for r in first}.isdisjoint(r.seed for r in other)
    assert len({r.seed for r in first}) == len(first) == 40


def test_a_request_does_not_depend_on_the_others(scenes: list[Scene]) -> None:
    few = {r.id: r.digest for r in plan(config(counts={"night": 5}), scenes)}
    many = {r.id: r.digest for r in plan(config(counts={"sunny": 9, "night": 12}), scenes)}
    assert few.items() <= many.items()


def test_a_plan_is_the_sum_of_its_parts(scenes: list[Scene]) -> None:
    whole = plan(config(counts={"night": 8, "sunny": 3}), scenes)
    first = plan(config(counts={"night": 4, "sunny": 1}), scenes)
    rest = plan(config(counts={"night": 4, "sunny": 2}, after={"night": 4, "sunny": 1, "foggy": 9}), scenes)
    assert sorted(first + rest, key=lambda r: r.id) == sorted(whole, key=lambda r: r.id)


def test_the_order_of_the_conditions_does_not_count(scenes: list[Scene]) -> None:
    one, other = ({"night": 2, "sunny": 3}, {"sunny": 3, "night": 2})
    assert plan(config(counts=one), scenes) == plan(config(counts=other), scenes)


def test_rare_class_is_drawn_far_more_often_than_it_occurs(scenes: list[Scene]) -> None:
    drawn = Counter(r.class_id for r in plan(config(), scenes))
    assert drawn[16] > 30  # 0.8% of the pixels, but T = 0.01 makes almost every request ask for it
    assert all(r.source == scenes[5].id for r in plan(config(), scenes) if r.class_id == 16)


def test_no_crop_lacks_its_class(scenes: list[Scene]) -> None:
    requests = plan(config(counts={"sunny": 200}, rare_class_temperature=5.0), scenes)
    assert len({r.class_id for r in requests}) > 2
    for r in requests:
        label = np.asarray(Image.open(next(s for s in scenes if s.id == r.source).label))
        assert (label[r.box.top : r.box.top + 32, r.box.left : r.box.left + 64] == r.class_id).any()


def test_crops_are_centered_on_the_class_and_drawn_again_as_released() -> None:
    """Beside the released rule, written anew: a far px of the class alone is no crop where there is more elsewhere."""
    label = np.zeros((100, 200), np.uint8)
    label[10, 10] = 7
    label[60:64, 150:160] = 7
    shown = []
    for seed in range(300):
        box = draw_crop(label, (20, 30), 7, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        rows, columns = np.nonzero(label == 7)
        for _ in range(10):
            k = rng.integers(len(rows))
            y, x = rows[k], columns[k]
            left, top = min(max(0, x - 15), 200 - 30), min(max(0, y - 10), 100 - 20)
            crop = label[top : top + 20, left : left + 30]
            if np.sum(crop == 7) > 0.01 * 20 * 30:
                break
        assert (box.top, box.left, box.height, box.width) == (top, left, 20, 30)
        shown.append(np.sum(crop == 7))
    assert min(shown) > 6
    label[60:64, 150:160] = 0
    assert draw_crop(label, (20, 30), 7, np.random.default_rng(0)) == Box(0, 0, 20, 30)  # there is no other


def test_prompt_names_exactly_the_classes_of_the_crop(scenes: list[Scene]) -> None:
    for r in plan(config(), scenes):
        crop = np.asarray(Image.open(next(s for s in scenes if s.id == r.source).label))
        crop = crop[r.box.top : r.box.top + 32, r.box.left : r.box.left + 64]
        assert {name for name in CLASS_NAMES if name in r.prompt} == {CLASS_NAMES[c] for c in np.unique(crop)}
        assert r.prompt.endswith(f"in {r.condition} weather.")


def test_plain_prompt_has_no_weather(scenes: list[Scene]) -> None:
    assert all("weather" not in r.prompt for r in plan(config(counts={"plain": 3}), scenes))


def test_class_probabilities_follow_the_equation() -> None:
    pixels = np.array([700.0, 200.0, 100.0, 0.0])
    got = rare_class_probabilities(pixels, 0.5, np.array([True, True, True, False]))
    expected = np.exp((1 - pixels[:3] / 1000) / 0.5)
    np.testing.assert_allclose(got, [*(expected / expected.sum()), 0.0])


def test_all_ignored_maps_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 128), 255, np.uint8)).save(tmp_path / "void.png")
    scenes = find_scenes(Dataset(name="void", root=tmp_path, layout="globs", labels="*.png", ids="train"))
    with pytest.raises(UserError, match="all pixels are ignored"):
        plan(config(), scenes)


def test_a_map_smaller_than_the_crop_is_named(scenes: list[Scene]) -> None:
    with pytest.raises(UserError, match=r"0\.png is 128x64 px, smaller than the crop of 64x128 px"):
        plan(config(size=(128, 64)), scenes)
    check_crops_fit(scenes, (64, 128), None)
    with pytest.raises(UserError, match=r"0\.png is 60x30 px once shrunk"):
        plan(config(label_height=30), scenes)


def test_class_shares_override_rare_class_sampling(scenes: list[Scene]) -> None:
    counts = {"sunny": 400}
    drawn = Counter(r.class_id for r in plan(config(counts=counts, classes={"road": 0.3}), scenes))
    assert abs(drawn[0] - 120) < 40  # 4.4 standard deviations
    assert drawn[16] > 250  # the rest is still drawn by rare-class sampling
    drawn = Counter(r.class_id for r in plan(config(counts=counts, classes={"train": 0.0}), scenes))
    assert drawn[16] == 0 and drawn[0] > 0 and drawn[10] > 0
    whole = {"road": 0.25, "sky": 0.25, "train": 0.5}
    drawn = Counter(r.class_id for r in plan(config(counts=counts, classes=whole), scenes))
    assert abs(drawn[16] - 200) < 45 and abs(drawn[0] - 100) < 40


def test_class_shares_that_cannot_be(scenes: list[Scene]) -> None:
    with pytest.raises(UserError, match="asks for 'rider', but no label map"):
        plan(config(classes={"rider": 0.1}), scenes)
    with pytest.raises(UserError, match="let them sum to 1"):
        plan(config(classes={"road": 0.1, "sky": 0.1, "train": 0.1}), scenes)
    for wrong, why in (({"riders": 0.1}, "choose among road"), ({"road": 0.6, "sky": 0.6}, "sum to 1 at most")):
        with pytest.raises(ValidationError, match=why):
            config(classes=wrong)


def test_own_conditions_have_prompts_of_their_own(scenes: list[Scene]) -> None:
    dusk = {"dusk": "A city street scene with {classes}, at dusk."}
    requests = plan(config(counts={"dusk": 3, "night": 1}, conditions=dusk), scenes)
    assert [r.prompt.split(", ")[-1] for r in requests] == ["at dusk."] * 3 + ["in night weather."]
    for changes, why in (
        ({"counts": {"dusk": 3}}, "asks for 'dusk': choose one of foggy, night, plain"),
        ({"counts": {"../x": 3}, "conditions": {"../x": "x"}}, "part of file names"),
        ({"conditions": {"dusk": "{classes} {time}"}}, "only {classes} and {weather} are known"),
        ({"prompt": "{"}, "cannot be filled in"),
    ):
        with pytest.raises(ValidationError, match=why):
            config(**changes)


def test_memory_for_label_maps_is_bounded(scenes: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generation.crops.KEPT_BYTES", 2 * 64 * 128)
    reader = LabelReader(scenes, None)
    maps = [reader.read(scene.id) for scene in (*scenes, *scenes)]
    assert len(reader._recent) == 2 and reader._bytes == 2 * 64 * 128
    for k, scene in enumerate(scenes):
        np.testing.assert_array_equal(maps[k], maps[k + len(scenes)])
        np.testing.assert_array_equal(maps[k], np.asarray(Image.open(scene.label)))


def test_threads_share_a_reader(scenes: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generation.crops.KEPT_BYTES", 2 * 64 * 128)
    reader, asked = LabelReader(scenes, None), [*scenes] * 50
    for scene, label in zip(asked, in_order(lambda scene: reader.read(scene.id), asked, threads=8), strict=True):
        np.testing.assert_array_equal(label, np.asarray(Image.open(scene.label)))
    assert len(reader._recent) == 2 and reader._bytes == 2 * 64 * 128


def test_counts_that_were_made_before_give_the_same_plan(scenes: list[Scene]) -> None:
    for height in (None, 48):
        pixels = count_labels(scenes, height).shrunk
        assert plan(config(label_height=height), scenes, pixels=pixels) == plan(config(label_height=height), scenes)


def test_one_hot_has_one_channel_per_class_and_ignore_last() -> None:
    label = np.array([[[0, 18], [255, 7]]], np.uint8)
    channels = one_hot(label)
    assert channels.shape == (1, 20, 2, 2)
    np.testing.assert_array_equal(channels.argmax(1), [[[0, 18], [19, 7]]])
    assert channels.sum() == 4
    with pytest.raises(ValueError, match="between 19 and 254"):
        one_hot(np.full((1, 2, 2), 40, np.uint8))


def test_shrink_keeps_ids_and_aspect() -> None:
    label = np.random.default_rng(0).choice(np.array([0, 7, 255], np.uint8), (1052, 1914))
    small = shrink(label, 96)
    assert small.shape == (96, 175)
    assert set(np.unique(small)) <= {0, 7, 255}


def test_a_label_map_is_read_once_for_all_its_requests(scenes: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """And the plan's order is that of its names."""
    read: list[Path] = []

    def reading(path: Path, ids: Mapping[int, int]) -> np.ndarray:
        read.append(path)
        return load_label_map(path, ids)

    monkeypatch.setattr("generation.plan.load_label_map", reading)
    requests = plan(config(), scenes)
    by_id = {scene.id: scene.label for scene in scenes}
    assert sorted(read) == sorted({by_id[request.source] for request in requests})
    assert [r.id for r in requests] == [f"{c}-{k:06d}" for c in ("night", "sunny") for k in range(20)]
