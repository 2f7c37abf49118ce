"""Toy town's pictures: the source, the five targets, the prior's world and the oracle's mixture.

Every picture is a pure function of its arguments. The target town is one fixed set of parameters, and no other
world draws it: the prior's towns are drawn at random, per picture, from a generator of their own.
"""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.seeding import random_generator
from pipeline.toytown.scene import City, draw_scene
from pipeline.toytown.style import GAME, TARGET, Look, random_look, shade
from pipeline.toytown.weather import WEATHERS, render

SOURCE_CITY = City()
TARGET_CITY = City(
    lane=(2.7, 3.1),
    sidewalk=(1.6, 2.6),
    verge=0.25,
    floors=(3, 6),
    floor=(3.2, 3.9),
    pitched=0.8,
    houses=0.66,
    trees=0.55,
    traffic=0.55,
    parked=0.8,
    people=0.75,
    bikes=0.7,
    crossing=0.35,
    eye=(1.25, 1.5),
    horizon=(0.43, 0.49),
    focal=(0.92, 1.04),
    yaw=0.07,
)
TARGETS = ("clear", "fog", "rain", "snow", "night")
TARGET_WEATHER = {"clear": "sunny", "fog": "foggy", "rain": "rainy", "snow": "snowy", "night": "night"}


@dataclass(frozen=True)
class Rendering:
    """A picture and its exact annotation."""

    image: np.ndarray  # (H, W, 3) uint8
    label: np.ndarray  # (H, W) uint8 train ids
    weather: str  # one of WEATHERS


def render_source(seed: int, index: int, size: tuple[int, int]) -> Rendering:
    """Picture `index` of the source: a clean, flat, saturated town under a clear sky; size is (height, width)."""
    return _render(SOURCE_CITY, GAME, "sunny", (seed, "source", index), size)


def render_target(domain: str, seed: int, index: int, size: tuple[int, int]) -> Rendering:
    """Picture `index` of one of TARGETS: another town, with scenes of its own in each domain."""
    return _render(TARGET_CITY, TARGET, TARGET_WEATHER[domain], (seed, "target", domain, index), size)


def render_prior(seed: int, index: int, size: tuple[int, int], weather: str | None = None) -> Rendering:
    """Picture `index` of the prior's world: a random town each time; the same scene whatever the weather."""
    key = (seed, "prior", index)
    return _render(
        random_city(random_generator("toytown", *key, "city")),
        random_look(random_generator("toytown", *key, "look")),
        weather or str(random_generator("toytown", *key, "weather").choice(WEATHERS)),
        key,
        size,
    )


def render_oracle(seed: int, index: int, size: tuple[int, int]) -> Rendering:
    """Picture `index` of a mixture of all styles (source, prior, targets), for a segmenter that judges renders."""
    key = (seed, "oracle", index)
    rng = random_generator("toytown", *key, "style")
    style, weather = rng.random(), str(rng.choice(WEATHERS))
    if style < 0.2:
        return _render(SOURCE_CITY, GAME, "sunny", key, size)
    if style < 0.5:
        return _render(TARGET_CITY, TARGET, weather, key, size)
    return _render(random_city(rng), random_look(rng), weather, key, size)


def render_restyled(seed: int, index: int, size: tuple[int, int], weather: str) -> Rendering:
    """Scene `index` of the source, label for label, under a look of the prior's world and a weather.

    What a perfect generator would paint onto that label map: the yardstick for generated images.
    """
    look = random_look(random_generator("toytown", seed, "restyled", index, weather))
    return _render(SOURCE_CITY, look, weather, (seed, "source", index), size)


def random_city(rng: np.random.Generator) -> City:
    """A town of the prior's world."""
    lane, low = float(rng.uniform(2.8, 3.8)), int(rng.integers(1, 5))
    eye, horizon, focal = float(rng.uniform(1.3, 1.8)), float(rng.uniform(0.40, 0.47)), float(rng.uniform(0.86, 1.02))
    return City(
        lane=(lane, lane),
        sidewalk=(1.6, 3.5),
        verge=float(rng.uniform(0.1, 0.6)),
        floors=(low, low + int(rng.integers(1, 7))),
        floor=(2.9, 3.8),
        pitched=float(rng.random()),
        houses=float(rng.uniform(0.5, 0.75)),
        trees=float(rng.uniform(0.2, 0.7)),
        traffic=float(rng.uniform(0.3, 0.7)),
        parked=float(rng.uniform(0.2, 0.8)),
        people=float(rng.uniform(0.4, 0.9)),
        bikes=float(rng.uniform(0.4, 0.8)),
        crossing=float(rng.uniform(0.2, 0.6)),
        eye=(eye, eye),
        horizon=(horizon, horizon),
        focal=(focal, focal),
    )


def _render(city: City, look: Look, weather: str, key: tuple[object, ...], size: tuple[int, int]) -> Rendering:
    canvas = draw_scene(city, random_generator("toytown", *key, "scene"), size)
    rng = random_generator("toytown", *key, "shade")
    buffers = shade(canvas, replace(look, sun=1.0 if rng.random() < 0.5 else -1.0), rng)
    return Rendering(render(buffers, look, weather, rng), buffers.label, weather)
