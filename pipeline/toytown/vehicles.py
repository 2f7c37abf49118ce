"""Cars, trucks, buses and trams: boxes along the street with a face at Z and the side that the camera sees."""

from collections.abc import Sequence
from math import cos, pi, sin

import numpy as np

from pipeline.toytown.canvas import Canvas, Point2, Sheet
from pipeline.toytown.things import ID

LENGTHS = {"car": 4.2, "truck": 7.5, "bus": 11.0, "train": 24.0}
WIDTHS = {"car": 1.8, "truck": 2.4, "bus": 2.5, "train": 2.5}


class Cuboid:
    """A vehicle box: `face` is the sheet at its near end, `side` draws on the wall that faces the street's axis."""

    def __init__(self, canvas: Canvas, x: float, z: float, kind: str) -> None:
        self.canvas, self.x, self.z, self.label = canvas, x, z, ID[kind]
        self.wide, self.long = WIDTHS[kind], LENGTHS[kind]
        self.face = Sheet(canvas, x, z, self.label)
        self.wall = x - self.wide / 2 if x > 0 else x + self.wide / 2
        self.sees_side = abs(x) > self.wide / 2 + 0.1
        half = self.wide / 2 + 0.1
        canvas.cast(1, [(x - half, z - 0.3), (x + half, z - 0.3), (x + half, z + self.long), (x - half, z + self.long)])
        lean = x + 2.2
        canvas.cast(2, [(x, z), (lean, z + 0.5), (lean, z + self.long), (x, z + self.long)])

    def side(self, material: str, tone: float, points: Sequence[Point2]) -> None:
        """A polygon of (meters behind the face, height) on the visible wall."""
        if self.sees_side:
            fill = self.canvas.side(self.wall, self.label, material, tone)
            self.canvas.polygon(fill, [(self.wall, y, self.z + back) for back, y in points])

    def band(self, material: str, tone: float, back: Point2, height: Point2) -> None:
        """A rectangle on the visible wall."""
        self.side(
            material, tone, [(back[0], height[0]), (back[1], height[0]), (back[1], height[1]), (back[0], height[1])]
        )

    def wheels(self, backs: Sequence[float], radius: float) -> None:
        """Wheels on the visible wall and below the face."""
        for back in backs:
            ring = [(back + radius * cos(a * pi / 5), radius + radius * sin(a * pi / 5)) for a in range(10)]
            self.side("tire", 0.5, ring)
        half = self.wide / 2
        for u in (-half + 0.05, half - 0.35):
            self.face.rect(self.face.fill("tire"), (u, u + 0.3), (0.0, radius))

    def lights(self, front: bool, height: float, size: float = 0.14) -> None:
        """Two head or tail lights on the face."""
        half, fill = self.wide / 2, self.face.fill("headlight" if front else "taillight")
        for u in (-half + 0.08, half - 0.08 - 2 * size):
            self.face.rect(fill, (u, u + 2 * size), (height, height + size * 1.2))


def car(canvas: Canvas, x: float, z: float, front: bool, rng: np.random.Generator) -> None:
    """A car: painted body, dark glass, four wheels."""
    box, tone = Cuboid(canvas, x, z, "car"), float(rng.random())
    tall = 1.45 if rng.random() < 0.75 else 1.75
    long, half = box.long, box.wide / 2
    box.side("car", tone, [(0, 0.25), (long, 0.25), (long, 0.75), (long - 1, 0.9), (0, 0.92)])
    box.side("car", tone, [(0.1, 0.88), (3.3, 0.88), (2.5, tall), (0.4, tall)])
    box.side("glass", 0.3, [(0.3, 0.92), (2.95, 0.92), (2.4, tall - 0.13), (0.55, tall - 0.13)])
    box.band("car", tone, (1.5, 1.65), (0.9, tall - 0.1))
    box.band("car_top", tone, (0.4, 2.5), (tall - 0.1, tall + 0.03))
    box.wheels((0.8, long - 0.8), 0.34)
    face = box.face
    body = face.fill("car", tone)
    face.rect(body, (-half, half), (0.26, 0.92))
    face.poly(body, [(-half * 0.94, 0.9), (half * 0.94, 0.9), (half * 0.72, tall), (-half * 0.72, tall)])
    face.poly(
        face.fill("glass"),
        [(-half * 0.82, 0.94), (half * 0.82, 0.94), (half * 0.64, tall - 0.13), (-half * 0.64, tall - 0.13)],
    )
    face.rect(face.fill("car_top", tone), (-half * 0.72, half * 0.72), (tall - 0.08, tall + 0.03))
    face.rect(face.fill("bumper"), (-half, half), (0.24, 0.4))
    face.rect(face.fill("sign_white"), (-0.26, 0.26), (0.42, 0.54))
    box.lights(front, 0.64)


def truck(canvas: Canvas, x: float, z: float, front: bool, rng: np.random.Generator) -> None:
    """A truck: a tall plain cargo box, a cab in another color, open wheels below."""
    box, cargo, cab = Cuboid(canvas, x, z, "truck"), float(rng.random()), float(rng.random())
    long, half, tall = box.long, box.wide / 2, float(rng.uniform(3.0, 3.6))
    box.band("bumper", 0.5, (0, long), (0.4, 0.75))
    nose = (0.0, 1.8) if front else (long - 1.8, long)
    box.band("cargo", cargo, (2.0, long) if front else (0.0, long - 2.0), (0.75, tall))
    box.band("truck", cab, nose, (0.45, 2.5))
    box.band("glass", 0.3, (nose[0] + 0.4, nose[0] + 1.3), (1.5, 2.2))
    box.band("car_top", cargo, (2.0, long) if front else (0.0, long - 2.0), (tall - 0.08, tall + 0.06))
    box.wheels((0.9, 2.6, long - 1.2), 0.48)
    face = box.face
    face.rect(face.fill("bumper"), (-half, half), (0.4, 0.8))
    face.rect(face.fill("cargo", cargo), (-half, half), (0.8, tall))
    if front:
        face.rect(face.fill("truck", cab), (-half, half), (0.5, 2.55))
        face.rect(face.fill("glass"), (-half * 0.88, half * 0.88), (1.5, 2.3))
        face.rect(face.fill("bumper"), (-half * 0.7, half * 0.7), (0.7, 1.1))
    else:
        face.rect(face.fill("bumper"), (-0.05, 0.05), (0.8, tall - 0.1))
        face.rect(face.fill("sign_yellow"), (-half, half), (0.8, 0.95))
    face.rect(face.fill("car_top", cargo), (-half, half), (tall - 0.1, tall + 0.06))
    box.lights(front, 0.55 if front else 0.5, 0.17)


def bus(canvas: Canvas, x: float, z: float, front: bool, rng: np.random.Generator) -> None:
    """A bus: one bold color, a band of windows all round, a lit destination sign."""
    box, tone = Cuboid(canvas, x, z, "bus"), float(rng.random())
    long, half, tall = box.long, box.wide / 2, 3.1
    box.band("bus", tone, (0, long), (0.35, tall))
    for k in range(6):
        box.band("interior", 0.5, (0.3 + k * 1.78, 1.75 + k * 1.78), (1.35, 2.5))
    box.band("bumper", 0.5, (0, long), (0.3, 0.5))
    box.band("car_top", tone, (0, long), (tall - 0.08, tall + 0.05))
    box.wheels((2.2, long - 2.4), 0.5)
    face = box.face
    face.rect(face.fill("bus", tone), (-half, half), (0.35, tall))
    face.rect(face.fill("interior" if not front else "glass"), (-half * 0.9, half * 0.9), (1.2 if front else 1.6, 2.5))
    face.rect(face.fill("amber" if front else "bus", tone), (-half * 0.7, half * 0.7), (2.62, 2.9))
    face.rect(face.fill("bumper"), (-half, half), (0.3, 0.5))
    face.rect(face.fill("car_top", tone), (-half, half), (tall - 0.08, tall + 0.05))
    box.lights(front, 0.65, 0.18)


def train(canvas: Canvas, x: float, z: float, front: bool, rng: np.random.Generator) -> None:
    """A tram: long, two-colored, with a tapered nose, a middle headlight and no wheels to be seen."""
    box, tone = Cuboid(canvas, x, z, "train"), float(rng.random())
    long, half, tall = box.long, box.wide / 2, 3.5
    box.band("tram", tone, (0, long), (0.2, 1.5))
    box.band("tram_top", tone, (0, long), (1.5, tall))
    for k in range(10):
        box.band("interior", 0.5, (0.5 + k * 2.35, 2.3 + k * 2.35), (1.6, 2.75))
    box.band("bumper", 0.5, (0, long), (0.1, 0.35))
    box.band("bumper", 0.5, (7.8, 8.2), (0.3, tall))
    box.band("bumper", 0.5, (15.8, 16.2), (0.3, tall))
    box.band("car_top", tone, (0, long), (tall - 0.1, tall + 0.05))
    face = box.face
    face.poly(face.fill("tram", tone), [(-half, 0.2), (half, 0.2), (half, 1.6), (-half, 1.6)])
    face.poly(face.fill("tram_top", tone), [(-half, 1.5), (half, 1.5), (half * 0.75, tall), (-half * 0.75, tall)])
    face.poly(face.fill("glass"), [(-half * 0.85, 1.55), (half * 0.85, 1.55), (half * 0.68, 2.8), (-half * 0.68, 2.8)])
    face.rect(face.fill("amber", 0.5), (-0.45, 0.45), (2.95, 3.2))
    face.rect(face.fill("bumper"), (-half, half), (0.1, 0.4))
    face.disc(face.fill("headlight" if front else "taillight"), 0, 1.05, 0.24)
    box.lights(front, 0.6, 0.13)


DRAW = {"car": car, "truck": truck, "bus": bus, "train": train}


def car_across(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A car that crosses the street, from the side."""
    board, tone = Sheet(canvas, x, z, ID["car"], mirror=bool(rng.random() < 0.5)), float(rng.random())
    paint, glass = board.fill("car", tone), board.fill("glass")
    canvas.cast(1, [(x - 2.2, z - 0.2), (x + 2.2, z - 0.2), (x + 2.2, z + 1.6), (x - 2.2, z + 1.6)])
    board.poly(paint, [(-2.1, 0.28), (2.1, 0.28), (2.1, 0.75), (1.3, 0.9), (-2.1, 0.92)])
    board.poly(paint, [(-1.7, 0.88), (1.2, 0.88), (0.55, 1.45), (-1.25, 1.45)])
    board.poly(glass, [(-1.45, 0.93), (0.95, 0.93), (0.45, 1.34), (-1.15, 1.34)])
    board.rect(paint, (-0.4, -0.26), (0.9, 1.4))
    board.rect(board.fill("car_top", tone), (-1.25, 0.55), (1.37, 1.48))
    for wheel in (-1.3, 1.3):
        board.disc(board.fill("tire"), wheel, 0.34, 0.36)
        board.disc(board.fill("chrome"), wheel, 0.34, 0.16)
    board.rect(board.fill("headlight"), (1.9, 2.1), (0.62, 0.76))
    board.rect(board.fill("taillight"), (-2.1, -1.92), (0.68, 0.82))
