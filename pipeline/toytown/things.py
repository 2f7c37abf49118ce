"""People, two-wheelers, trees and street furniture: bold flat shapes on upright sheets."""

from math import cos, pi, sin

import numpy as np

from pipeline.data.labels import CLASS_NAMES
from pipeline.toytown.canvas import Canvas, Sheet

ID = {name: train_id for train_id, name in enumerate(CLASS_NAMES)}


def person(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A standing or walking person: legs, body, arms, head."""
    board = Sheet(canvas, x, z, ID["person"])
    tall = float(rng.uniform(0.95, 1.12)) if rng.random() < 0.88 else 0.7
    stride = float(rng.uniform(0.0, 0.22)) * tall
    legs, top = board.fill("trousers", rng.random()), board.fill("shirt", rng.random())
    skin, hair = board.fill("skin", rng.random()), board.fill("hair", rng.random())
    canvas.cast(1, [(x - 0.3, z - 0.1), (x + 0.3, z - 0.1), (x + 0.3, z + 0.25), (x - 0.3, z + 0.25)])
    for foot in (-1, 1):
        hip, toe = foot * 0.11 * tall, foot * (0.1 * tall + stride)
        board.poly(legs, [(hip - 0.1, 0.9 * tall), (hip + 0.1, 0.9 * tall), (toe + 0.09, 0), (toe - 0.09, 0)])
    board.poly(
        top,
        [
            (-0.21 * tall, 0.82 * tall),
            (0.21 * tall, 0.82 * tall),
            (0.27 * tall, 1.45 * tall),
            (-0.27 * tall, 1.45 * tall),
        ],
    )
    for arm in (-1, 1):
        board.line(top, [(arm * 0.25 * tall, 1.4 * tall), (arm * 0.33 * tall, 0.85 * tall)], 0.11)
    board.disc(hair, 0, 1.64 * tall, 0.15 * tall)
    board.disc(skin, 0, 1.59 * tall, 0.13 * tall, 0.14 * tall)


def bicycle(canvas: Canvas, x: float, z: float, rng: np.random.Generator, ridden: bool = False) -> None:
    """A bicycle from the side; `ridden` adds the rider."""
    board = Sheet(canvas, x, z, ID["bicycle"], mirror=bool(rng.random() < 0.5))
    frame, tire, spokes = board.fill("bicycle", rng.random()), board.fill("tire"), board.fill("spokes")
    canvas.cast(1, [(x - 0.8, z - 0.1), (x + 0.8, z - 0.1), (x + 0.8, z + 0.15), (x - 0.8, z + 0.15)])
    for wheel in (-0.55, 0.55):
        board.disc(tire, wheel, 0.35, 0.37)
        board.disc(spokes, wheel, 0.35, 0.26)
    board.line(frame, [(-0.55, 0.35), (-0.2, 0.8), (0.4, 0.82), (0.0, 0.35), (-0.2, 0.85)], 0.07)
    board.line(frame, [(-0.55, 0.35), (0.0, 0.35)], 0.07)
    board.line(frame, [(0.55, 0.35), (0.38, 1.02), (0.55, 1.05)], 0.07)
    board.line(tire, [(-0.35, 0.93), (-0.08, 0.93)], 0.1)
    if ridden:
        _rider(board, rng, seat=0.95)


def motorcycle(canvas: Canvas, x: float, z: float, rng: np.random.Generator, ridden: bool = False) -> None:
    """A motorcycle from the side: thick wheels, a painted tank, a seat; `ridden` adds the rider."""
    board = Sheet(canvas, x, z, ID["motorcycle"], mirror=bool(rng.random() < 0.5))
    paint, tire, chrome = board.fill("motorcycle", rng.random()), board.fill("tire"), board.fill("chrome")
    canvas.cast(1, [(x - 1.0, z - 0.2), (x + 1.0, z - 0.2), (x + 1.0, z + 0.3), (x - 1.0, z + 0.3)])
    for wheel in (-0.72, 0.72):
        board.disc(tire, wheel, 0.34, 0.36)
        board.disc(chrome, wheel, 0.34, 0.14)
    board.poly(tire, [(-0.5, 0.25), (0.4, 0.25), (0.5, 0.6), (-0.7, 0.65)])
    board.poly(paint, [(-0.95, 0.72), (-0.1, 0.62), (0.5, 0.6), (0.62, 0.95), (0.1, 1.0), (-0.15, 0.8), (-0.9, 0.88)])
    board.line(chrome, [(0.72, 0.34), (0.5, 1.1), (0.3, 1.15)], 0.09)
    board.poly(tire, [(-0.75, 0.84), (0.0, 0.8), (0.0, 0.92), (-0.7, 0.95)])
    board.disc(board.fill("headlight"), 0.68, 0.88, 0.11)
    if ridden:
        _rider(board, rng, seat=0.9)


def _rider(board: Sheet, rng: np.random.Generator, seat: float) -> None:
    label = ID["rider"]
    top, legs = board.fill("shirt", rng.random(), label), board.fill("trousers", rng.random(), label)
    head, skin = board.fill("helmet", rng.random(), label), board.fill("skin", rng.random(), label)
    board.line(legs, [(-0.22, seat), (0.2, seat - 0.2), (0.02, 0.32)], 0.2)
    board.poly(top, [(-0.38, seat - 0.05), (-0.02, seat - 0.05), (0.3, seat + 0.5), (0.02, seat + 0.64)])
    board.line(top, [(0.15, seat + 0.48), (0.46, seat + 0.14)], 0.12)
    board.disc(skin, 0.26, seat + 0.72, 0.14)
    board.disc(head, 0.23, seat + 0.78, 0.16, 0.14)


def riding_away(canvas: Canvas, x: float, z: float, rng: np.random.Generator, motor: bool) -> None:
    """A rider seen from behind, on a bicycle or a motorcycle."""
    board = Sheet(canvas, x, z, ID["motorcycle" if motor else "bicycle"])
    wide = 0.11 if motor else 0.06
    canvas.cast(1, [(x - 0.3, z - 0.2), (x + 0.3, z - 0.2), (x + 0.3, z + 1.4), (x - 0.3, z + 1.4)])
    board.rect(board.fill("tire"), (-wide, wide), (0.0, 0.72))
    if motor:
        paint = board.fill("motorcycle", rng.random())
        board.poly(paint, [(-0.28, 0.45), (0.28, 0.45), (0.22, 0.92), (-0.22, 0.92)])
        board.rect(board.fill("taillight"), (-0.1, 0.1), (0.68, 0.8))
    board.line(board.fill("chrome"), [(-0.36, 1.05), (0.36, 1.05)], 0.07)
    label = ID["rider"]
    legs, top = board.fill("trousers", rng.random(), label), board.fill("shirt", rng.random(), label)
    for side in (-1, 1):
        board.line(legs, [(side * 0.14, 0.95), (side * 0.22, 0.35)], 0.16)
        board.line(top, [(side * 0.22, 1.45), (side * 0.36, 1.05)], 0.12)
    board.poly(top, [(-0.2, 0.85), (0.2, 0.85), (0.25, 1.5), (-0.25, 1.5)])
    board.disc(board.fill("helmet", rng.random(), label), 0, 1.66, 0.17)


def tree(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A trunk (vegetation, as Cityscapes has it) and a crown of lobes, darker below; a few are conifers."""
    board = Sheet(canvas, x, z, ID["vegetation"])
    tall, tone = float(rng.uniform(4.0, 8.5)), float(rng.random())
    radius, trunk = tall * float(rng.uniform(0.24, 0.34)), tall * float(rng.uniform(0.3, 0.42))
    leaf, under = board.fill("leaf", tone), board.fill("leaf_dark", tone)
    canvas.cast(2, [(x + radius * cos(a), z + radius * sin(a)) for a in np.arange(8) * pi / 4])
    board.rect(board.fill("trunk", tone), (-0.13, 0.13), (0.0, trunk + 0.5))
    if rng.random() < 0.2:
        for k, fill in ((0, under), (1, leaf), (2, under), (3, leaf)):
            low, half = 0.9 + (tall - 0.9) * k / 4.6, radius * 0.8 * (1 - k / 5)
            board.poly(fill, [(-half, low), (half, low), (0, low + tall * 0.36)])
        return
    middle = trunk + radius * 0.8
    if radius * board.scale < 5:  # a few pixels: lobes would not show
        board.disc(leaf, 0, middle, radius, radius * 0.9)
        return
    board.disc(under, 0, middle - 0.12 * radius, radius, radius * 0.85)
    for angle in rng.uniform(0, 2 * pi, 6):
        board.disc(
            under if sin(angle) < -0.2 else leaf,
            0.62 * radius * cos(angle),
            middle + 0.5 * radius * sin(angle),
            radius * 0.52,
        )
    board.disc(leaf, -0.1 * radius, middle + 0.3 * radius, radius * 0.68, radius * 0.6)


def bush(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A low round bush."""
    board, tone = Sheet(canvas, x, z, ID["vegetation"]), float(rng.random())
    size = float(rng.uniform(0.5, 1.1))
    board.disc(board.fill("leaf_dark", tone), 0, size * 0.5, size, size * 0.75)
    board.disc(board.fill("leaf", tone), -0.2 * size, size * 0.75, size * 0.65, size * 0.5)


def lamp_post(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A street lamp whose arm reaches over the road."""
    board = Sheet(canvas, x, z, ID["pole"], mirror=x > 0)
    steel, tall = board.fill("pole", 0.2), float(rng.uniform(5.5, 7.5))
    board.rect(steel, (-0.1, 0.1), (0.0, tall))
    board.line(steel, [(0, tall), (1.5, tall + 0.25)], 0.12)
    board.rect(board.fill("lamp"), (1.1, 1.8), (tall, tall + 0.22))


def traffic_light(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A dark box with one lit lamp, on a pole; sometimes on an arm over the road."""
    board = Sheet(canvas, x, z, ID["pole"], mirror=x > 0)
    steel, box = board.fill("pole", 0.6), board.fill("light_box", 0.5, ID["traffic light"])
    tall, arm = float(rng.uniform(2.5, 3.3)), rng.random() < 0.4
    lamp = board.fill(("red", "green", "amber")[int(rng.choice(3, p=(0.45, 0.45, 0.1)))], 0.5, ID["traffic light"])
    level = {"red": 0.82, "amber": 0.52, "green": 0.22}[canvas.surfaces[lamp].material]
    spots = [(0.0, tall)]
    if arm:
        board.line(steel, [(0, 0), (0, 5.6), (2.6, 5.6)], 0.15)
        spots.append((2.6, 4.9))
    board.rect(steel, (-0.09, 0.09), (0.0, tall))
    for u, v in spots:
        board.rect(box, (u - 0.24, u + 0.24), (v, v + 1.05))
        board.disc(lamp, u, v + level, 0.19)


def traffic_sign(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A disc, a warning triangle, a blue square or a direction board on a pole."""
    board, label = Sheet(canvas, x, z, ID["pole"]), ID["traffic sign"]
    tall, kind = float(rng.uniform(2.1, 2.7)), int(rng.integers(5))
    board.rect(board.fill("pole", 0.4), (-0.07, 0.07), (0.0, tall))
    red, white = board.fill("sign_red", 0.5, label), board.fill("sign_white", 0.5, label)
    if kind <= 1:
        board.disc(red, 0, tall, 0.42)
        if kind:
            board.disc(white, 0, tall, 0.27)
        else:
            board.rect(white, (-0.26, 0.26), (tall - 0.08, tall + 0.08))
    elif kind == 2:
        board.poly(red, [(-0.5, tall - 0.36), (0.5, tall - 0.36), (0, tall + 0.5)])
        board.poly(white, [(-0.26, tall - 0.24), (0.26, tall - 0.24), (0, tall + 0.22)])
    elif kind == 3:
        board.rect(board.fill("sign_blue", 0.5, label), (-0.38, 0.38), (tall - 0.38, tall + 0.38))
        board.disc(white, 0, tall, 0.17)
    else:
        board.rect(board.fill("sign_yellow", 0.5, label), (-0.7, 0.7), (tall - 0.25, tall + 0.3))
