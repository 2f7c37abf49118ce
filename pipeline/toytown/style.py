"""Looks: the palettes, textures and light of the towns, and the shading of a canvas without weather."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.toytown.canvas import SCALE, UP, Canvas

Color = tuple[int, int, int]


class Material(NamedTuple):
    """Colors of a material in an ordinary town, its texture, its share of snow and its light at night."""

    colors: tuple[Color, ...]
    grain: float = 0.03
    blotch: float = 0.03
    snow: float = 0.0
    glow: Color = (0, 0, 0)


PAINTS = (
    (225, 225, 228),
    (40, 42, 48),
    (150, 154, 160),
    (170, 30, 32),
    (34, 66, 140),
    (90, 96, 104),
    (200, 170, 60),
    (60, 96, 76),
)
CLOTHES = ((190, 50, 50), (50, 80, 160), (230, 230, 225), (40, 40, 46), (220, 150, 50), (70, 130, 90), (150, 80, 150))
MATERIALS: dict[str, Material] = {
    "sky": Material(((150, 190, 232),), 0.0, 0.0),
    "road": Material(((98, 98, 102), (108, 106, 106)), 0.045, 0.05, 0.75),
    "mark": Material(((222, 222, 216),), 0.05, 0.06, 0.75),
    "rail": Material(((66, 64, 66),), 0.03, 0.03, 0.25),
    "sidewalk": Material(((172, 160, 150), (160, 156, 152)), 0.05, 0.05, 0.95),
    "curb": Material(((196, 192, 186),), 0.04, 0.04, 0.9),
    "terrain": Material(((112, 144, 70), (128, 138, 78)), 0.10, 0.12, 1.0),
    "facade": Material(
        ((186, 160, 128), (168, 132, 110), (204, 192, 170), (150, 146, 146), (176, 112, 92), (206, 178, 136)),
        0.05,
        0.05,
        0.05,
    ),
    "window": Material(((62, 74, 92),), 0.05, 0.05),
    "window_lit": Material(((74, 84, 98),), 0.05, 0.05, 0.0, (255, 196, 104)),
    "roof": Material(((122, 62, 48), (88, 80, 80), (134, 84, 60)), 0.06, 0.05, 1.0),
    "wall": Material(((150, 96, 80), (140, 134, 126)), 0.10, 0.05, 0.1),
    "wall_trim": Material(((118, 78, 68), (176, 170, 160)), 0.05, 0.04, 0.5),
    "fence": Material(((214, 208, 196), (118, 88, 62)), 0.04, 0.03, 0.3),
    "fence_mesh": Material(((92, 98, 84), (74, 66, 56)), 0.08, 0.06, 0.15),
    "pole": Material(((116, 118, 122), (78, 84, 82)), 0.03, 0.02),
    "light_box": Material(((26, 28, 30),), 0.02, 0.0),
    "red": Material(((255, 60, 44),), 0.0, 0.0, 0.0, (255, 40, 24)),
    "green": Material(((50, 236, 130),), 0.0, 0.0, 0.0, (40, 255, 130)),
    "amber": Material(((255, 184, 40),), 0.0, 0.0, 0.0, (255, 170, 30)),
    "lamp": Material(((226, 222, 206),), 0.0, 0.0, 0.3, (255, 200, 120)),
    "sign_red": Material(((214, 28, 34),), 0.02, 0.0),
    "sign_white": Material(((244, 244, 240),), 0.02, 0.0),
    "sign_blue": Material(((24, 84, 190),), 0.02, 0.0),
    "sign_yellow": Material(((246, 208, 40),), 0.02, 0.0),
    "leaf": Material(((92, 134, 58), (110, 140, 62), (74, 118, 56)), 0.17, 0.14, 0.5),
    "leaf_dark": Material(((56, 90, 42), (68, 94, 44), (44, 78, 42)), 0.15, 0.12, 0.12),
    "trunk": Material(((96, 74, 56),), 0.08, 0.04),
    "skin": Material(((226, 178, 146), (160, 112, 84), (112, 76, 56)), 0.02, 0.0),
    "hair": Material(((46, 34, 28), (96, 66, 40)), 0.02, 0.0),
    "shirt": Material(CLOTHES, 0.03, 0.02),
    "trousers": Material(((44, 52, 84), (36, 36, 40), (92, 84, 74)), 0.03, 0.02),
    "helmet": Material(((236, 236, 232), (210, 40, 40), (30, 30, 34)), 0.02, 0.0, 0.2),
    "bicycle": Material(((190, 40, 40), (40, 90, 170), (40, 120, 90)), 0.02, 0.0),
    "spokes": Material(((138, 140, 142),), 0.05, 0.02),
    "tire": Material(((26, 26, 28),), 0.02, 0.0),
    "chrome": Material(((196, 198, 204),), 0.03, 0.0),
    "motorcycle": Material(((180, 26, 26), (30, 60, 150), (220, 120, 20)), 0.02, 0.0),
    "car": Material(PAINTS, 0.02, 0.02, 0.05),
    "car_top": Material(PAINTS, 0.02, 0.02, 1.0),
    "glass": Material(((34, 42, 54),), 0.03, 0.04),
    "interior": Material(((42, 52, 64),), 0.03, 0.03, 0.0, (255, 226, 164)),
    "bumper": Material(((34, 34, 36),), 0.02, 0.02),
    "headlight": Material(((246, 242, 220),), 0.0, 0.0, 0.0, (255, 250, 226)),
    "taillight": Material(((196, 18, 22),), 0.0, 0.0, 0.0, (255, 26, 20)),
    "truck": Material(((190, 40, 36), (44, 84, 150), (230, 226, 220), (60, 110, 70)), 0.02, 0.02),
    "cargo": Material(((226, 222, 212), (196, 190, 178), (92, 120, 150), (190, 150, 70)), 0.03, 0.04),
    "bus": Material(((222, 164, 24), (196, 34, 38), (28, 120, 100)), 0.02, 0.02),
    "tram": Material(((140, 30, 60), (22, 90, 70), (50, 60, 130)), 0.02, 0.02),
    "tram_top": Material(((238, 230, 206), (232, 236, 232), (240, 226, 190)), 0.02, 0.02),
}
NUMBER = {name: k for k, name in enumerate(MATERIALS)}
GROUND = frozenset(("road", "mark", "rail", "sidewalk", "curb", "terrain"))
TEXTURE = np.array([(m.grain, m.blotch, m.snow) for m in MATERIALS.values()], np.float32)
GLOW = np.array([m.glow for m in MATERIALS.values()], np.float32)


@dataclass(frozen=True)
class Look:
    """How a town and its camera draw: colors per material and the way light, texture and lens treat them."""

    palette: dict[str, np.ndarray]  # material -> (k, 3) float32 in [0, 255]
    texture: float = 1.0
    courses: float = 0.0  # brick courses and paving joints
    shade: float = 0.7  # brightness of faces turned away from the sun
    sun: float = 1.0  # 1 or -1: which side of the street is lit
    shadow: float = 0.55  # brightness inside a cast shadow
    clouds: float = 0.3
    zenith: tuple[float, float, float] = (92.0, 148.0, 220.0)
    noise: float = 3.0  # sensor noise, standard deviation in gray levels
    blur: float = 0.5  # radius in pixels


def _palette(changes: dict[str, tuple[Color, ...]]) -> dict[str, np.ndarray]:
    return {name: np.array(changes.get(name, m.colors), np.float32) for name, m in MATERIALS.items()}


GAME = Look(
    _palette(
        {
            "sky": ((138, 202, 255),),
            "road": ((112, 114, 124),),
            "sidewalk": ((206, 196, 190),),
            "terrain": ((98, 196, 66),),
            "facade": ((240, 178, 98), (236, 120, 96), (132, 178, 226), (240, 226, 178), (196, 156, 220)),
            "window": ((52, 84, 128),),
            "window_lit": ((60, 96, 140),),
            "leaf": ((62, 176, 58), (92, 190, 60)),
            "leaf_dark": ((36, 124, 44), (52, 136, 44)),
            "roof": ((196, 70, 52), (96, 88, 110)),
            "car": ((250, 40, 44), (40, 90, 240), (250, 250, 252), (252, 206, 40), (44, 44, 52), (60, 190, 110)),
            "car_top": ((250, 40, 44), (40, 90, 240), (250, 250, 252), (252, 206, 40), (44, 44, 52), (60, 190, 110)),
            "wall": ((190, 104, 88), (166, 166, 176)),
            "mark": ((255, 255, 255),),
        }
    ),
    texture=0.12,
    shade=0.62,
    shadow=0.5,
    clouds=0.0,
    zenith=(56, 140, 250),
    noise=0.0,
    blur=0.0,
)

TARGET = Look(
    _palette(
        {
            "sky": ((190, 202, 214),),
            "road": ((84, 80, 78), (92, 88, 84)),
            "sidewalk": ((128, 120, 116), (138, 128, 118)),
            "terrain": ((112, 108, 66), (98, 102, 58)),
            "mark": ((196, 192, 180),),
            "facade": (
                (164, 148, 122),
                (142, 120, 102),
                (184, 172, 150),
                (128, 122, 118),
                (154, 104, 84),
                (120, 126, 124),
            ),
            "leaf": ((86, 98, 50), (98, 102, 56), (74, 92, 54)),
            "leaf_dark": ((52, 62, 36), (60, 62, 38), (42, 56, 38)),
            "roof": ((104, 62, 50), (82, 78, 78)),
            "wall": ((128, 92, 80), (122, 118, 108)),
            "car": ((34, 36, 42), (112, 116, 122), (196, 198, 200), (60, 66, 84), (104, 34, 34), (70, 74, 78)),
            "car_top": ((34, 36, 42), (112, 116, 122), (196, 198, 200), (60, 66, 84), (104, 34, 34), (70, 74, 78)),
            "shirt": ((54, 58, 74), (120, 46, 44), (170, 166, 158), (34, 34, 38), (92, 100, 80)),
        }
    ),
    texture=1.15,
    courses=1.0,
    shade=0.78,
    shadow=0.62,
    clouds=0.6,
    zenith=(122, 158, 204),
    noise=3.0,
    blur=0.5,
)


def random_look(rng: np.random.Generator) -> Look:
    """A town of the prior's world: palette, texture, light and lens drawn broadly, now and then like a game."""
    game = rng.random() < 0.2
    base = GAME if game else Look(_palette({}))
    gain, tint = float(rng.uniform(0.8, 1.15)), rng.normal(0, 6, 3)
    vivid = float(rng.uniform(0.65, 1.35))
    palette = {}
    for name, colors in base.palette.items():
        spread = 26.0 if name in ("facade", "roof", "wall", "cargo", "terrain", "sidewalk") else 12.0
        jittered = colors * gain + tint + rng.normal(0, spread / 2, colors.shape) + rng.normal(0, spread / 2)
        gray = jittered.mean(1, keepdims=True)
        palette[name] = np.clip(gray + vivid * (jittered - gray), 8, 255).astype(np.float32)
    palette["car_top"] = palette["car"]
    top = tuple(float(c) for c in np.clip(np.array(base.zenith) + rng.normal(0, 18, 3), 0, 255))
    return replace(
        base,
        palette=palette,
        texture=float(rng.uniform(0.05, 0.3) if game else rng.uniform(0.4, 1.3)),
        courses=float(rng.random() * (rng.random() < 0.5)),
        shade=float(rng.uniform(0.58, 0.85)),
        shadow=float(rng.uniform(0.45, 0.7)),
        clouds=float(rng.uniform(0, 0.7)),
        zenith=(top[0], top[1], top[2]),
        noise=float(0 if game else rng.uniform(0, 2)),
        blur=float(0 if game else rng.uniform(0, 0.6)),
    )


class Buffers(NamedTuple):
    """What shading and weather work on, all (H, W) or (H, W, 3) float32 except `label` and `ground`."""

    color: np.ndarray  # gray levels under plain daylight without directional light
    light: np.ndarray  # brightness factor of the sun's direction and cast shadows
    glow: np.ndarray  # (H, W, 3) what shines by itself at night
    snow: np.ndarray  # share of snow the material takes
    depth: np.ndarray  # inverse depth 1 / Z in 1/m, 0 in the sky
    label: np.ndarray  # uint8 train ids
    side: np.ndarray  # X in meters
    ground: np.ndarray  # bool, the plane Y = 0


def smooth(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise with unit variance on its grid, features of `cell` pixels."""
    grid = rng.standard_normal((max(2, round(shape[0] / cell)), max(2, round(shape[1] / cell)))).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize(shape[::-1], Image.Resampling.BICUBIC))


def shade(canvas: Canvas, look: Look, rng: np.random.Generator) -> Buffers:
    """Look up every surface's color and properties and add the texture."""
    surfaces, index = canvas.surfaces, canvas.index_map()
    material = np.array([NUMBER[s.material] for s in surfaces])
    colors = _colors(look, material, np.array([s.tone for s in surfaces]))
    facing = np.array([1.0 if s.facing == UP else 0.5 + 0.5 * s.facing * look.sun for s in surfaces], np.float32)
    light = look.shade + (1 - look.shade) * facing
    ground = np.array([s.material in GROUND for s in surfaces])
    # one row per surface and kind of shadow; the shadows fall on the ground only
    dark = np.where(ground[:, None], np.array([1.0, 0.55, look.shadow], np.float32), np.float32(1))
    rows = np.concatenate([colors, GLOW[material], light[:, None]], 1)
    table = np.repeat(rows[:, None], 3, axis=1)
    table[..., 6] *= dark
    cells = index * 3 + np.asarray(canvas.shadow)
    corners = [cells[i::SCALE, j::SCALE] for i in range(SCALE) for j in range(SCALE)]
    small = sum(table.reshape(-1, 7)[corner] for corner in corners) / np.float32(SCALE * SCALE)
    first = index[::SCALE, ::SCALE]
    plane = np.array([s.plane for s in surfaces], np.float32)[first]
    y, x = np.indices(first.shape, np.float32) * SCALE
    x, y = x - canvas.camera.x, y - canvas.camera.y
    depth = np.maximum(plane[..., 0] + plane[..., 1] * x + plane[..., 2] * y, 0)
    texture = TEXTURE[material][first]
    across = x / canvas.camera.focal / np.maximum(depth, 1e-3)
    label = np.array([s.label for s in surfaces], np.uint8)[first]
    color = small[..., :3] * _texture(look, texture, rng)[..., None]
    if look.courses:
        above = canvas.camera.height - y / canvas.camera.focal / np.maximum(depth, 1e-3)
        color = color * _courses(look, label, above, across, depth)[..., None]
    return Buffers(color, small[..., 6], small[..., 3:6], texture[..., 2], depth, label, across, ground[first])


def _colors(look: Look, material: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """(surfaces, 3) palette entries, each brightened or darkened a little by the rest of the tone."""
    counts = np.array([len(look.palette[name]) for name in MATERIALS])
    stack = np.concatenate([look.palette[name] for name in MATERIALS])
    place = tone * counts[material]
    entry = (np.cumsum(counts) - counts)[material] + place.astype(int)
    return np.asarray(stack[entry] * (0.94 + 0.12 * (place % 1.0))[:, None], np.float32)


def _texture(look: Look, amount: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shape = amount.shape[:2]
    fine, coarse = rng.standard_normal(shape, np.float32), smooth(rng, shape, 7)
    return np.asarray(
        1 + look.texture * (amount[..., 0] * (0.6 * fine + 0.7 * smooth(rng, shape, 2.2)) + amount[..., 1] * coarse)
    )


def _courses(look: Look, label: np.ndarray, height: np.ndarray, across: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Brick courses on houses and walls, joints on sidewalks; they fade before they alias."""
    near = np.clip(depth * 20 - 0.4, 0, 1) * look.courses
    brick = ((label == 2) | (label == 3)) * np.sin(height * (2 * np.pi / 0.55)) * 0.09
    joint = (label == 1) * (np.minimum(across % 0.9, (1 / np.maximum(depth, 1e-3)) % 0.9) < 0.13) * -0.16
    return np.asarray(1 + near * (brick + joint))
