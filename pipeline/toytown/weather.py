"""Weather over shaded buffers: what sun, snow, rain, fog and night do to a street, by class and by depth."""

import numpy as np
from PIL import Image, ImageFilter

from pipeline.toytown.style import Buffers, Look, smooth

WEATHERS = ("snowy", "rainy", "sunny", "foggy", "night")
ROAD, SKY = 0, 10
GLAZED = (2, 15, 16)  # lit rooms behind glass are less bright than lamps


def render(buffers: Buffers, look: Look, weather: str, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: the buffers under one of WEATHERS, then the camera's blur and noise."""
    strength = float(rng.uniform(0.65, 1.0))
    paint = {"sunny": _sunny, "snowy": _snowy, "rainy": _rainy, "foggy": _foggy, "night": _night}[weather]
    image = paint(buffers, look, strength, rng)
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    if look.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(look.blur))
    if not look.noise:
        return np.asarray(picture)
    noise = look.noise * (1.3 if weather == "night" else 1.0)
    gray = rng.standard_normal(image.shape[:2], np.float32)[..., None] * 0.8
    return np.clip(
        np.asarray(picture) + noise * (gray + 0.5 * rng.standard_normal(image.shape, np.float32)), 0, 255
    ).astype(np.uint8)


def _sky(buffers: Buffers, top: np.ndarray, low: np.ndarray) -> np.ndarray:
    """A vertical gradient, from `top` at the upper edge to `low` at 45% of the height."""
    height, width = buffers.label.shape
    share = np.clip(np.arange(height, dtype=np.float32) / (0.45 * height), 0, 1)[:, None, None]
    return np.broadcast_to(top * (1 - share) + low * share, (height, width, 3))


def _put_sky(buffers: Buffers, image: np.ndarray, sky: np.ndarray) -> np.ndarray:
    return np.where((buffers.label == SKY)[..., None], sky, image)


def _overcast(buffers: Buffers, dim: float, softness: float) -> np.ndarray:
    """Daylight without a sun: the directional light almost gone."""
    return buffers.color * (dim * (1 - softness + softness * buffers.light))[..., None]


def _blur(values: np.ndarray, radius: float) -> np.ndarray:
    picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), np.float32)


def _sunny(buffers: Buffers, look: Look, strength: float, rng: np.random.Generator) -> np.ndarray:
    image = buffers.color * buffers.light[..., None] * (1.0 + 0.08 * strength)
    low = look.palette["sky"][0]
    sky = _sky(buffers, np.array(look.zenith, np.float32), low)
    if look.clouds:
        shape = buffers.label.shape
        cloud = np.clip(smooth(rng, shape, 22) * 0.8 + 0.4 * smooth(rng, shape, 9) - 0.2, 0, 1) * look.clouds
        sky = sky + (np.float32(246) - sky) * cloud[..., None]
    # air light: far things lose contrast a little even on a clear day
    haze = 1 - np.exp(-0.0025 / np.maximum(buffers.depth, 1e-3))
    image = image + (low - image) * haze[..., None]
    return _put_sky(buffers, image, sky)


def _foggy(buffers: Buffers, look: Look, strength: float, rng: np.random.Generator) -> np.ndarray:
    gray = np.array([206.0, 210.0, 214.0], np.float32) * float(rng.uniform(0.85, 1.05))
    beta = 0.035 + 0.055 * (strength - 0.65) / 0.35
    drift = 1 + 0.15 * smooth(rng, buffers.label.shape, 30)
    thickness = beta * np.clip(drift, 0.6, 1.5) / np.maximum(buffers.depth, 1e-3)
    clear = np.exp(-thickness)[..., None]
    return _overcast(buffers, 0.85, 0.25) * clear + gray * (1 - clear)


def _snowy(buffers: Buffers, look: Look, strength: float, rng: np.random.Generator) -> np.ndarray:
    shape = buffers.label.shape
    patches = 0.7 * smooth(rng, shape, 9) + 0.35 * smooth(rng, shape, 3)
    cover = np.clip(2.4 * (buffers.snow * (0.6 + 0.55 * strength) - 0.42 + 0.13 * patches), 0, 1) * (buffers.snow > 0.1)
    # wheels keep two tracks per lane half clear
    track = np.exp(-((((np.abs(buffers.side) % 3.4) - 0.85) / 0.28) ** 2))
    cover = cover * (1 - (0.5 * track) * (buffers.label == ROAD))
    white = np.array([236.0, 240.0, 248.0], np.float32) * (0.72 + 0.28 * buffers.light)[..., None]
    image = _overcast(buffers, 0.86, 0.35)
    image = image + (white * (1 + 0.03 * patches)[..., None] - image) * cover[..., None]
    pale = np.array([214.0, 219.0, 226.0], np.float32)
    veil = (1 - np.exp(-0.012 * strength / np.maximum(buffers.depth, 1e-3)))[..., None]
    image = _put_sky(buffers, image + (pale - image) * veil, _sky(buffers, pale * 0.96, pale * 1.03))
    return _flakes(image, strength, rng)


def _flakes(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Falling snow: single bright pixels and a few soft blobs."""
    height, width = image.shape[:2]
    small = (rng.random((height, width), np.float32) < 0.012 * strength).astype(np.float32)
    big = (rng.random((height, width), np.float32) < 0.0022 * strength) * np.float32(255)
    veil = np.clip(0.75 * small + np.clip(_blur(big, 0.8) / 70, 0, 0.9), 0, 0.9)[..., None]
    return image + (np.float32(250) - image) * veil


def _rainy(buffers: Buffers, look: Look, strength: float, rng: np.random.Generator) -> np.ndarray:
    shape = buffers.label.shape
    gray = np.array([150.0, 156.0, 164.0], np.float32)
    sky = _sky(buffers, gray * 0.82, gray * 1.12) * (1 + 0.05 * smooth(rng, shape, 18))[..., None]
    image = _put_sky(buffers, _overcast(buffers, 0.74, 0.25) + 0.30 * buffers.glow, sky)
    veil = (1 - np.exp(-0.010 * strength / np.maximum(buffers.depth, 1e-3)))[..., None]
    image = image + (gray - image) * veil * (buffers.label != SKY)[..., None]
    wet = np.isin(buffers.label, (0, 1)) & buffers.ground
    mirror = _mirror(image, buffers.ground, rng)
    puddles = (
        np.clip(0.55 + 0.3 * smooth(rng, shape, 12), 0.2, 0.85) * strength * np.where(buffers.label == ROAD, 1, 0.55)
    )
    share = (puddles * wet)[..., None]
    image = image * (1 - 0.30 * wet[..., None]) * (1 - share) + share * (mirror * 0.95 + 8)
    return _drops(image, strength, rng)


def _mirror(image: np.ndarray, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each ground pixel, the column above its contact line turned upside down, smeared and rippled."""
    height, width = ground.shape
    rows = np.arange(height)[:, None]
    contact = np.maximum.accumulate(np.where(ground, -1, rows), axis=0)
    source = np.clip(2 * contact - rows + 1, 0, height - 1)
    ripple = np.rint(smooth(rng, (height, 8), 1.5)[:, :1] * 1.2).astype(int)
    columns = np.clip(np.arange(width)[None] + ripple, 0, width - 1)
    flipped = image[source, columns]
    smeared = sum((np.roll(flipped, k, axis=0) for k in (-2, -1, 1, 2)), flipped)
    return np.asarray(smeared / 5)


def _drops(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Diagonal streaks of rain."""
    height, width = image.shape[:2]
    seeds = (rng.random((height, width), np.float32) < 0.007 * strength).astype(np.float32)
    streaks = sum((np.roll(seeds, (k, -(k // 2)), axis=(0, 1)) * (1 - k / 7) for k in range(1, 6)), seeds)
    return image + (np.float32(215) - image) * (np.clip(streaks, 0, 1) * 0.42)[..., None]


def _night(buffers: Buffers, look: Look, strength: float, rng: np.random.Generator) -> np.ndarray:
    dark = np.array([0.24, 0.28, 0.44], np.float32) * (1.3 - 0.5 * strength)
    image = buffers.color * 0.9 * dark
    depth = 1 / np.maximum(buffers.depth, 1e-3)
    beam = np.exp(-((buffers.side / (1.6 + 0.28 * depth)) ** 2)) * np.exp(-depth / 22) * (buffers.label != SKY)
    warm = np.array([1.0, 0.93, 0.76], np.float32)
    image = image + buffers.color * (0.72 * beam)[..., None] * warm
    top = np.array([10.0, 14.0, 34.0], np.float32) * float(rng.uniform(0.7, 1.4))
    image = _put_sky(buffers, image, _sky(buffers, top, top * 1.9 + 4))
    glow = buffers.glow * np.where(np.isin(buffers.label, GLAZED), np.float32(0.78), np.float32(1))[..., None]
    image = image * (1 - np.clip(glow.max(-1, keepdims=True) / 255, 0, 1)) + glow
    # lamps light the street around them: a wide faint glow scaled by what it falls on, and a halo in the lens
    around = _blur(glow, 9.0) * 1.6
    return image + buffers.color / 160 * around + _blur(glow, 2.0) * 0.4
