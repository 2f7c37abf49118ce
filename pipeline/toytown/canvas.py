"""A pinhole camera on a street and a canvas that records which surface each pixel shows.

World coordinates are meters: X to the right of the camera, Y above the ground, Z ahead. The camera looks along Z;
its yaw is a shift of the vanishing point, so every plane keeps an inverse depth that is affine in pixel coordinates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SCALE = 2  # supersampling: the picture is averaged over SCALE x SCALE pixels, the label takes the first of them

Point2 = tuple[float, float]
Point3 = tuple[float, float, float]
SIDE, FRONT, UP = 1, 0, 2  # where a surface faces: across the street, at the camera, at the sky


class Camera(NamedTuple):
    """Focal length, height above the ground (m) and vanishing point, in supersampled pixels."""

    focal: float
    height: float
    x: float
    y: float

    def project(self, point: Point3) -> Point2:
        """The pixel that shows a world point with Z > 0."""
        x, y, z = point
        return self.x + self.focal * x / z, self.y + self.focal * (self.height - y) / z


class Surface(NamedTuple):
    """What one index of the canvas stands for."""

    label: int  # train id
    material: str
    tone: float  # in [0, 1): which color of the material's palette
    facing: int  # SIDE, FRONT or UP; the sign of SIDE is the direction of its normal along X
    plane: Point3  # 1 / Z = plane . (1, x - camera.x, y - camera.y)


class Canvas:
    """Painter's algorithm into an index map without anti-aliasing; whoever draws last is nearest."""

    def __init__(self, camera: Camera, size: tuple[int, int]) -> None:
        self.camera = camera
        self.size = (size[0] * SCALE, size[1] * SCALE)
        self.image = Image.new("I", self.size[::-1], 0)
        self.shadow = Image.new("L", self.size[::-1], 0)  # 1: always dark (under a vehicle), 2: dark in the sun
        self._draw = ImageDraw.Draw(self.image)
        self._shade = ImageDraw.Draw(self.shadow)
        self.surfaces: list[Surface] = []

    def surface(self, label: int, material: str, tone: float, facing: int, plane: Point3) -> int:
        """Register a surface; its index is the fill of the drawing calls."""
        self.surfaces.append(Surface(label, material, tone, facing, plane))
        return len(self.surfaces) - 1

    def ground(self, label: int, material: str, tone: float = 0.5) -> int:
        """A surface in the plane Y = 0."""
        return self.surface(label, material, tone, UP, (0.0, 0.0, 1.0 / (self.camera.focal * self.camera.height)))

    def upright(self, z: float, label: int, material: str, tone: float = 0.5) -> int:
        """A surface in the plane Z = z."""
        return self.surface(label, material, tone, FRONT, (1.0 / z, 0.0, 0.0))

    def side(self, x: float, label: int, material: str, tone: float = 0.5) -> int:
        """A surface in the plane X = x, seen from the street."""
        facing = -SIDE if x > 0 else SIDE
        return self.surface(label, material, tone, facing, (0.0, 1.0 / (self.camera.focal * x), 0.0))

    def polygon(self, fill: int, points: Sequence[Point3]) -> None:
        """Fill a polygon of world points."""
        self.sheet(fill, [self.camera.project(p) for p in points])

    def floor(self, fill: int, x: Point2, z: Point2) -> None:
        """Fill a rectangle on the ground."""
        self.polygon(fill, [(x[0], 0, z[0]), (x[1], 0, z[0]), (x[1], 0, z[1]), (x[0], 0, z[1])])

    def cast(self, kind: int, points: Sequence[Point2]) -> None:
        """A shadow on the ground, (X, Z) points; kind 1 is always there, kind 2 only in the sun."""
        self._shade.polygon([self.camera.project((x, 0.0, z)) for x, z in points], fill=kind)

    def pixels(self, fill: int, box: tuple[float, float, float, float]) -> None:
        """Fill a rectangle given in supersampled pixels."""
        self._draw.rectangle(box, fill=fill)

    def disc(self, fill: int, center: Point2, radius: Point2) -> None:
        """Fill an ellipse given in supersampled pixels."""
        (x, y), (a, b) = center, radius
        self._draw.ellipse((x - a, y - b, x + a, y + b), fill=fill)

    def stroke(self, fill: int, points: Sequence[Point2], width: int) -> None:
        """Draw a line given in supersampled pixels."""
        self._draw.line(list(points), fill=fill, width=width)

    def sheet(self, fill: int, points: Sequence[Point2]) -> None:
        """Fill a polygon given in supersampled pixels."""
        self._draw.polygon(list(points), fill=fill)

    def sees(self, x: float, z: float, half: float) -> bool:
        """Whether a thing from x - half to x + half at depth z can be in the picture."""
        x0, x1 = (self.camera.x + self.camera.focal * (x + d) / z for d in (-half, half))
        return x1 > 0 and x0 < self.size[1]

    def index_map(self) -> np.ndarray:
        """(2H, 2W) int32 surface indices."""
        return np.asarray(self.image)


class Sheet:
    """An upright sheet at (x, z) on which things are drawn in meters: u to the right of x, v above the ground."""

    def __init__(self, canvas: Canvas, x: float, z: float, label: int, mirror: bool = False) -> None:
        self.canvas, self.x, self.z, self.label = canvas, x, z, label
        self.sign = -1.0 if mirror else 1.0
        self.scale = canvas.camera.focal / z
        self._fills: dict[tuple[int, str, float], int] = {}

    def fill(self, material: str, tone: float = 0.5, label: int | None = None) -> int:
        """The surface index of a material on this sheet."""
        key = (self.label if label is None else label, material, tone)
        if key not in self._fills:
            self._fills[key] = self.canvas.upright(self.z, *key)
        return self._fills[key]

    def pixel(self, u: float, v: float) -> Point2:
        """The supersampled pixel of a point on the sheet."""
        return self.canvas.camera.project((self.x + self.sign * u, v, self.z))

    def rect(self, fill: int, u: Point2, v: Point2) -> None:
        """A rectangle, at least two supersampled pixels (one of the final picture) wide and tall."""
        (x0, y0), (x1, y1) = self.pixel(u[0], v[0]), self.pixel(u[1], v[1])
        x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        self.canvas.pixels(fill, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))

    def poly(self, fill: int, points: Sequence[Point2]) -> None:
        """A polygon."""
        self.canvas.sheet(fill, [self.pixel(u, v) for u, v in points])

    def disc(self, fill: int, u: float, v: float, a: float, b: float | None = None) -> None:
        """An ellipse with half axes a, b (a circle without b)."""
        self.canvas.disc(fill, self.pixel(u, v), (a * self.scale, (a if b is None else b) * self.scale))

    def line(self, fill: int, points: Sequence[Point2], width: float) -> None:
        """A line of `width` meters, at least two supersampled pixels."""
        self.canvas.stroke(fill, [self.pixel(u, v) for u, v in points], max(2, round(width * self.scale)))
