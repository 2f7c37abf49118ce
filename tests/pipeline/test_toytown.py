"""Toy town: determinism, labels, what each weather does, and the layout on disk."""

import hashlib
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from pipeline.config.toytown import ToyTown
from pipeline.data.datasets import find_scenes, toytown_datasets
from pipeline.data.labels import CITYSCAPES_IDS, CLASS_NAMES, load_label_map
from pipeline.seeding import random_generator
from pipeline.toytown import (
    TARGETS,
    WEATHERS,
    Rendering,
    render_oracle,
    render_prior,
    render_restyled,
    render_source,
    render_target,
    write_world,
)
from pipeline.toytown.canvas import Camera, Canvas
from pipeline.toytown.render import SOURCE_CITY
from pipeline.toytown.scene import draw_scene
from pipeline.toytown.style import GAME, TARGET, shade
from pipeline.toytown.weather import render
from pipeline.work.progress import silent
from pipeline.work.units import WORK
from tests.tracks import interrupted_after

SIZE = (96, 192)
ID = {name: k for k, name in enumerate(CLASS_NAMES)}
T = TypeVar("T")


def luma(rendering: Rendering, *names: str) -> float:
    """Mean brightness of the pixels of some classes."""
    pixels = rendering.image[np.isin(rendering.label, [ID[name] for name in names])]
    return float(pixels.mean())


@cache
def in_weather(weather: str) -> tuple[Rendering, ...]:
    """The same scenes in each weather."""
    return tuple(render_prior(3, index, SIZE, weather) for index in range(8))


def mean_luma(weather: str, *names: str) -> float:
    present = [r for r in in_weather(weather) if np.isin(r.label, [ID[name] for name in names]).any()]
    return float(np.mean([luma(r, *names) for r in present]))


def digest(rendering: Rendering) -> str:
    return hashlib.sha256(rendering.image.tobytes() + rendering.label.tobytes()).hexdigest()


@pytest.mark.parametrize("size", [SIZE, (64, 128), (50, 71)])
def test_a_rendering_is_a_function_of_its_arguments(size: tuple[int, int]) -> None:
    first = [
        render_source(0, 5, size),
        render_prior(0, 5, size),
        render_target("rain", 0, 5, size),
        render_oracle(0, 5, size),
    ]
    again = [
        render_source(0, 5, size),
        render_prior(0, 5, size),
        render_target("rain", 0, 5, size),
        render_oracle(0, 5, size),
    ]
    assert [digest(r) for r in first] == [digest(r) for r in again]
    assert {r.image.shape for r in first} == {(*size, 3)}
    assert {r.label.shape for r in first} == {size}
    assert {r.image.dtype for r in first} == {np.dtype(np.uint8)} == {r.label.dtype for r in first}


def test_seed_index_and_domain_give_other_scenes() -> None:
    renderings = [render_source(0, 0, SIZE), render_source(1, 0, SIZE), render_source(0, 1, SIZE)]
    renderings += [render_target(domain, 0, 0, SIZE) for domain in TARGETS] + [render_prior(0, 0, SIZE)]
    assert len({r.label.tobytes() for r in renderings}) == len(renderings)


def test_every_class_occurs_and_every_label_is_valid() -> None:
    renderings = [render_source(0, index, SIZE) for index in range(100)]
    images_with = np.zeros(len(CLASS_NAMES), int)
    for rendering in renderings:
        assert rendering.label.max() < len(CLASS_NAMES)
        images_with += np.bincount(rendering.label.ravel(), minlength=len(CLASS_NAMES)) > 20
    rare = {name: int(count) for name, count in zip(CLASS_NAMES, images_with, strict=True) if count < 8}
    assert rare == {}


def test_the_prior_keeps_a_scene_whatever_the_weather() -> None:
    labels = {weather: [r.label.tobytes() for r in in_weather(weather)] for weather in WEATHERS}
    assert all(labels[weather] == labels["sunny"] for weather in WEATHERS)
    assert {r.weather for r in in_weather("night")} == {"night"}
    assert {render_prior(3, index, (50, 71)).weather for index in range(40)} == set(WEATHERS)


def test_restyling_keeps_the_label_and_changes_the_picture() -> None:
    source, restyled = render_source(2, 7, SIZE), render_restyled(2, 7, SIZE, "snowy")
    assert (source.label == restyled.label).all()
    assert np.abs(source.image.astype(int) - restyled.image).mean() > 20


def test_a_label_pixel_is_the_surface_at_its_corner() -> None:
    canvas = Canvas(Camera(80.0, 1.5, 20.0, 16.0), (16, 20))
    canvas.surface(ID["sky"], "sky", 0.5, 2, (0.0, 0.0, 0.0))
    canvas.pixels(canvas.upright(5.0, ID["car"], "car"), (10, 6, 13, 9))
    label = shade(canvas, GAME, random_generator("test")).label
    wanted = np.full((16, 20), ID["sky"])
    wanted[3:5, 5:7] = ID["car"]
    assert (label == wanted).all()


def test_depth_is_the_planes_depth() -> None:
    camera = Camera(80.0, 1.5, 20.0, 10.0)
    canvas = Canvas(camera, (16, 20))
    canvas.surface(ID["sky"], "sky", 0.5, 2, (0.0, 0.0, 0.0))
    canvas.floor(canvas.ground(ID["road"], "road"), (-50, 50), (0.5, 400))
    depth = shade(canvas, GAME, random_generator("test")).depth
    row = 12  # 24 - 10 = 14 supersampled pixels below the horizon
    assert depth[row, 3] == pytest.approx(14 / (80.0 * 1.5))
    assert camera.project((0.0, 0.0, 80.0 * 1.5 / 14))[1] == pytest.approx(24)
    assert depth[0, 0] == 0


def test_the_sky_is_brighter_than_the_road_by_day_and_dark_at_night() -> None:
    assert mean_luma("sunny", "sky") > mean_luma("sunny", "road") + 40
    assert mean_luma("night", "sky") < 45
    assert mean_luma("night", "road", "building", "sidewalk") < 0.6 * mean_luma("sunny", "road", "building", "sidewalk")


def test_night_lights_some_windows() -> None:
    lit = [(r.image[r.label == ID["building"]].max(-1) > 200).mean() for r in in_weather("night")]
    assert 0.005 < np.mean(lit) < 0.4


def test_snow_whitens_the_ground_more_than_the_houses() -> None:
    def gain(*names: str) -> float:
        return mean_luma("snowy", *names) - mean_luma("rainy", *names)

    ground, houses = gain("road", "sidewalk", "terrain"), gain("building")
    assert ground > 80
    assert ground > houses + 50


def test_fog_takes_contrast_with_depth() -> None:
    canvas = draw_scene(SOURCE_CITY, random_generator("test", 1), SIZE)
    buffers = shade(canvas, TARGET, random_generator("test", 2))
    image = render(buffers, GAME, "foggy", random_generator("test", 3)).astype(float)
    near, far = (buffers.depth > 1 / 8), (buffers.depth < 1 / 40)
    gray = image[buffers.label == ID["sky"]].mean(0)
    assert np.abs(image[far] - gray).mean() < 0.25 * np.abs(image[near] - gray).mean()


def test_the_wet_road_mirrors_what_stands_behind_it() -> None:
    canvas = Canvas(Camera(80.0, 1.5, 64.0, 26.0), (64, 64))
    canvas.surface(ID["sky"], "sky", 0.5, 2, (0.0, 0.0, 0.0))
    canvas.floor(canvas.ground(ID["road"], "road"), (-50, 50), (0.5, 400))
    canvas.pixels(canvas.upright(6.0, ID["traffic sign"], "sign_red"), (48, 10, 80, 46))
    image = render(shade(canvas, GAME, random_generator("a")), GAME, "rainy", random_generator("b")).astype(float)
    redness = image[..., 0] - image[..., 2]
    assert redness[26:36, 28:36].mean() > redness[26:36, :16].mean() + 15


@pytest.mark.parametrize("weather", [weather for weather in WEATHERS if weather != "sunny"])
def test_no_photometric_change_makes_a_weather_of_the_sun(weather: str) -> None:
    """Brightness, contrast, saturation and hue are affine in RGB: the best affine map must leave much over."""
    source, target = (render_prior(0, 3, SIZE, w).image.reshape(-1, 3).astype(float) for w in ("sunny", weather))
    design = np.concatenate([source, np.ones((len(source), 1))], 1)
    left = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    assert left.std() > 12


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != WORK]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_world_on_disk_is_read_back_as_rendered(tmp_path: Path) -> None:
    config = ToyTown(seed=4, source_images=3, target_images=2, size=(48, 96))
    write_world(config, tmp_path / "a", silent)
    source, targets = toytown_datasets(tmp_path / "a")
    assert {target.name for target in targets} == set(TARGETS)
    with Image.open(tmp_path / "a/source/labels/00001.png") as image:
        assert image.mode == "P"
    with Image.open(tmp_path / "a/targets/fog/gtFine/val/toytown/toytown_000001_000000_gtFine_labelIds.png") as image:
        assert image.mode == "L"
    scenes = find_scenes(source)
    assert [scene.id for scene in scenes] == ["00000", "00001", "00002"]
    renderings = [render_source(4, index, config.size) for index in range(3)]
    for target in targets:
        scenes += find_scenes(target)
        renderings += [render_target(target.name, 4, index, config.size) for index in range(2)]
    for scene, rendering in zip(scenes, renderings, strict=True):
        assert scene.image is not None
        assert (np.asarray(Image.open(scene.image)) == rendering.image).all()
        assert (load_label_map(scene.label, CITYSCAPES_IDS) == rendering.label).all()


def test_an_interrupted_world_is_continued_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    config = ToyTown(source_images=4, target_images=1, size=(32, 64))
    write_world(config, tmp_path / "whole", silent)
    with pytest.raises(KeyboardInterrupt):
        write_world(config, tmp_path / "resumed", interrupted_after(3))
    finished = contents(tmp_path / "resumed")
    assert len(finished) == 6
    times = {name: (tmp_path / "resumed" / name).stat().st_mtime_ns for name in finished}
    write_world(config, tmp_path / "resumed", silent)
    assert {name: (tmp_path / "resumed" / name).stat().st_mtime_ns for name in finished} == times
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["flipped", "cut", "swapped", "empty", "gone"])
def test_a_damaged_picture_of_an_interrupted_world_is_rendered_again(tmp_path: Path, damage: str) -> None:
    """Case F07: what an interrupted build has left is gone on with only as it was written."""
    config = ToyTown(source_images=3, target_images=1, size=(32, 64))
    write_world(config, tmp_path / "whole", silent)
    with pytest.raises(KeyboardInterrupt):
        write_world(config, tmp_path / "resumed", interrupted_after(3))
    first, second = (tmp_path / "resumed" / "source" / "images" / f"{k:05}.png" for k in range(2))
    data, other = first.read_bytes(), second.read_bytes()
    if damage == "gone":
        first.unlink()
    else:
        changed = {"flipped": bytes([*data[:-20], data[-20] ^ 1, *data[-19:]]), "cut": data[:-9], "empty": b""}
        first.write_bytes(other if damage == "swapped" else changed[damage])
    if damage == "swapped":
        second.write_bytes(data)
    write_world(config, tmp_path / "resumed", silent)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
