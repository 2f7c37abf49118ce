"""One seeded street: where the road, the houses and everybody on them are."""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, inf

import numpy as np

from pipeline.toytown import blocks, things, vehicles
from pipeline.toytown.canvas import SCALE, Camera, Canvas, Point2
from pipeline.toytown.things import ID

Item = tuple[int, float, Callable[[], None]]  # strip from the outside in, -Z, how to draw it
STRIPES, HOUSES, YARD, WALK, PARKED, LANE, OWN = range(7)  # on the stripes: behind all that is before the crossing


@dataclass(frozen=True)
class City:
    """Geometry statistics of a town; the pairs are ranges, the rest are probabilities or densities."""

    lane: Point2 = (3.3, 3.7)  # m
    sidewalk: Point2 = (2.0, 3.5)  # m
    verge: float = 0.45  # chance of a strip of grass before the houses
    floors: tuple[int, int] = (2, 9)
    floor: Point2 = (2.9, 3.4)  # m
    pitched: float = 0.25
    houses: float = 0.6  # share of the blocks, the rest are walls, fences and greens
    trees: float = 0.4  # per 10 m of sidewalk
    traffic: float = 0.5
    parked: float = 0.35
    people: float = 0.6
    bikes: float = 0.5
    crossing: float = 0.45
    eye: Point2 = (1.5, 1.8)  # m, height of the camera
    horizon: Point2 = (0.41, 0.46)  # of the picture's height
    focal: Point2 = (0.86, 0.96)  # of the picture's height
    yaw: float = 0.05  # of the picture's width, standard deviation of the vanishing point


class Street:
    """The plan of one scene; `items` fills up with what stands on it."""

    def __init__(self, canvas: Canvas, city: City, rng: np.random.Generator) -> None:
        self.canvas, self.city, self.rng = canvas, city, rng
        self.lane = float(rng.uniform(*city.lane))
        self.tram = rng.random() < 0.15
        self.lanes = (int(rng.random() < 0.3), 1 + int(self.tram or rng.random() < 0.2))  # beside ours: right, left
        self.parking = tuple(bool(rng.random() < 0.25 + 0.65 * city.parked) for _ in range(2))
        self.edge = tuple(
            (0.5 + n) * self.lane + 2.2 * p + 0.3 for n, p in zip(self.lanes, self.parking, strict=True)
        )  # right, left
        self.walk = tuple(float(rng.uniform(*city.sidewalk)) for _ in range(2))
        self.verge = tuple(float(rng.uniform(1.0, 4.0)) if rng.random() < city.verge else 0.0 for _ in range(2))
        start = float(rng.uniform(11.0, 32.0)) if rng.random() < city.crossing else inf
        self.cross = (start, start + 7.0)  # a road that crosses ours, from z to z; at infinity where there is none
        self.items: list[Item] = []

    def add(self, strip: int, z: float, draw: Callable[[], None]) -> None:
        """Something at depth z; nothing overlaps between the strips of one side, so strips go outside in."""
        beyond = z > self.cross[0] or self.cross[0] == inf
        self.items.append((strip if beyond else strip + 100, -z, draw))

    def in_crossing(self, z0: float, z1: float) -> bool:
        """Whether [z0, z1] touches the crossing."""
        return z1 > self.cross[0] - 0.5 and z0 < self.cross[1] + 0.5


def draw_scene(city: City, rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    """A street of `city` on a new canvas for a picture of `size` (height, width)."""
    height, width = size[0] * SCALE, size[1] * SCALE
    camera = Camera(
        height * float(rng.uniform(*city.focal)),
        float(rng.uniform(*city.eye)),
        width * (0.5 + float(np.clip(rng.normal(0, city.yaw), -0.16, 0.16))),
        height * float(rng.uniform(*city.horizon)),
    )
    canvas = Canvas(camera, size)
    street = Street(canvas, city, rng)
    canvas.surface(ID["sky"], "sky", 0.5, 2, (0.0, 0.0, 0.0))
    _ground(street)
    blocks.backdrop(canvas, (6.0, 3.2 * city.floors[1]), rng)
    for side in (1, -1):
        _line_with_blocks(street, side)
        _furniture(street, side)
        _sidewalk(street, side)
        _parking(street, side)
    _traffic(street)
    _crossing(street)
    for _, _, draw in sorted(street.items, key=lambda item: item[:2]):
        draw()
    return canvas


def _ground(street: Street) -> None:
    canvas, rng, (right, left) = street.canvas, street.rng, street.edge
    near, far = 0.8, blocks.FAR
    canvas.floor(canvas.ground(ID["terrain"], "terrain", rng.random()), (-400, 400), (near, far * 3))
    walk, road = (
        canvas.ground(ID["sidewalk"], "sidewalk", rng.random()),
        canvas.ground(ID["road"], "road", rng.random()),
    )
    curb, paint = canvas.ground(ID["sidewalk"], "curb"), canvas.ground(ID["road"], "mark")
    lap = 0.3  # below the houses, so that no seam shows
    canvas.floor(walk, (right, right + street.walk[0] + lap * (not street.verge[0])), (near, far))
    canvas.floor(walk, (-left - street.walk[1] - lap * (not street.verge[1]), -left), (near, far))
    canvas.floor(curb, (-left - 0.25, right + 0.25), (near, far))
    canvas.floor(road, (-left, right), (near, far))
    z0, z1 = street.cross
    if z0 < inf:
        canvas.floor(walk, (-150, 150), (z0 - 1.5, z1 + 1.5))
        canvas.floor(road, (-150, 150), (z0, z1))
        canvas.floor(road, (-left, right), (z0 - 1.6, z1 + 1.6))
        for x in np.arange(-left + 0.3, right - 0.4, 1.0):
            canvas.floor(paint, (x, x + 0.5), (z0 - 3.0, z0 - 0.6))
    borders = [k - 0.5 for k in range(-street.lanes[1], street.lanes[0] + 2)]
    dashes = [z for z in np.arange(float(rng.uniform(0.8, 4)), 60.0, 6.0) if not street.in_crossing(z - 2, z + 5)]
    for k in borders[1:-1]:
        for z in dashes:
            canvas.floor(paint, (k * street.lane - 0.09, k * street.lane + 0.09), (z, z + 3.0))
    for k, parks in ((borders[0], street.parking[1]), (borders[-1], street.parking[0])):
        if parks:
            canvas.floor(paint, (k * street.lane - 0.06, k * street.lane + 0.06), (near, 60.0))
    if street.tram:
        steel, middle = canvas.ground(ID["road"], "rail"), -street.lanes[1] * street.lane
        for x in (middle - 0.75, middle + 0.65):
            canvas.floor(steel, (x, x + 0.12), (near, far))


def _line_with_blocks(street: Street, side: int) -> None:
    """Houses, walls, fences and greens along one side, from near to far."""
    city, rng, which = street.city, street.rng, (1 - side) // 2
    line = side * (street.edge[which] + street.walk[which] + street.verge[which])
    rest = (1 - city.houses) / 3
    z, usual = 1.6, float(rng.uniform(*city.floors))
    while z < blocks.FAR - 8:
        end = z + float(rng.uniform(7.0, 16.0)) * (1 + z / 60)
        kind = str(rng.choice(("house", "wall", "fence", "green"), p=(city.houses, rest, rest, rest)))
        if street.in_crossing(z, end):
            if z >= street.cross[0] - 2.5:
                z = street.cross[1] + 1.8
                continue
            end = street.cross[0] - 1.8
        _block(street, kind, line, (z, end), usual)
        z = end + (float(rng.uniform(1.0, 4.0)) if rng.random() < 0.25 else 0.0)


def _block(street: Street, kind: str, line: float, z: Point2, usual: float) -> None:
    canvas, city, rng = street.canvas, street.city, street.rng
    seed = np.random.default_rng(int(rng.integers(2**62)))  # its own stream: drawn later, in another order
    if kind == "house":
        story = float(rng.uniform(*city.floor))
        floors = floor(np.clip(usual + rng.normal(0, 1.2), *city.floors))
        shape = (floors * story + 0.5, story, bool(rng.random() < city.pitched))
        street.add(HOUSES, z[0], lambda: blocks.building(canvas, line, z, shape, seed))
        return
    hedge = kind == "green" and rng.random() < 0.5
    if kind == "green" or rng.random() < 0.7:
        street.add(HOUSES, z[0], lambda: blocks.green(canvas, line * 1.02, z, seed, hedge))
    if kind != "green":
        draw = blocks.wall if kind == "wall" else blocks.fence
        street.add(YARD, z[0], lambda: draw(canvas, line, z, seed))


def _place(street: Street, strip: int, draw: Callable[..., None], x: float, z: float) -> None:
    """Put a thing that is drawn by draw(canvas, x, z, rng)."""
    seed = np.random.default_rng(int(street.rng.integers(2**62)))
    if street.canvas.sees(x, z, 3.0):
        street.add(strip, z, lambda: draw(street.canvas, x, z, seed))


def _furniture(street: Street, side: int) -> None:
    """Trees, lamps, signs and traffic lights near the curb."""
    rng, which, trees = street.rng, (1 - side) // 2, 0.6 * street.city.trees
    spot = side * (street.edge[which] + 0.5)
    shares = (
        (trees, things.tree),
        (trees + 0.22, things.lamp_post),
        (trees + 0.46, things.traffic_sign),
        (trees + 0.54, things.traffic_light),
    )
    for z in np.arange(float(rng.uniform(5, 12)), 70.0, 7.0):
        if street.in_crossing(z - 1, z + 1):
            continue
        pick = rng.random()
        for below, draw in shares:
            if pick < below:
                _place(street, WALK, draw, spot, float(z))
                break


def _sidewalk(street: Street, side: int) -> None:
    """People, parked two-wheelers, and bushes on the verge behind them."""
    city, rng, which = street.city, street.rng, (1 - side) // 2
    edge, walk = street.edge[which], street.walk[which]
    for _ in range(int(rng.poisson(3.2 * city.people))):
        z = float(rng.uniform(5.0, 13.0) if rng.random() < 0.6 else rng.uniform(13.0, 35.0))
        for k in range(1 + int(rng.random() < 0.35)):
            _place(street, WALK, things.person, side * (edge + float(rng.uniform(0.8, walk))) + 0.7 * k, z + 0.2 * k)
    if rng.random() < 0.5 * city.bikes:
        z, count = float(rng.uniform(6.0, 16.0)), int(rng.integers(1, 4))
        draw = things.bicycle if rng.random() < 0.6 else things.motorcycle
        for k in range(count):
            _place(street, WALK, draw, side * (edge + walk * 0.6), z + 2.2 * k)
    if street.verge[which]:
        for z in rng.uniform(5.0, 50.0, int(rng.integers(0, 5))):
            plant = things.bush if rng.random() < 0.7 else things.tree
            _place(street, YARD, plant, side * (edge + walk + 0.8), float(z))


def _vehicle(street: Street, strip: int, kind: str, x: float, z: float, front: bool) -> None:
    seed = np.random.default_rng(int(street.rng.integers(2**62)))
    street.add(strip, z, lambda: vehicles.DRAW[kind](street.canvas, x, z, front, seed))


def _parking(street: Street, side: int) -> None:
    which = (1 - side) // 2
    if not street.parking[which]:
        return
    x, rng = side * (street.edge[which] - 1.25), street.rng
    z = float(rng.uniform(4.5, 11.0))
    while z < 70:
        kind = "car" if rng.random() < 0.93 else "truck"
        if rng.random() < 0.35 + 0.5 * street.city.parked and not street.in_crossing(z, z + vehicles.LENGTHS[kind]):
            _vehicle(street, PARKED, kind, x, z, front=side < 0)
        z += vehicles.LENGTHS[kind] + float(rng.uniform(0.8, 3.0))


def _traffic(street: Street) -> None:
    """Moving vehicles and riders, lane by lane; the outermost left lane belongs to the tram where there is one."""
    city, rng = street.city, street.rng
    for k in range(-street.lanes[1], street.lanes[0] + 1):
        x, strip = k * street.lane, OWN if k == 0 else LANE
        z = float(rng.uniform(8.0, 20.0) if k == 0 else rng.uniform(5.5, 22.0))
        if street.tram and k == -street.lanes[1]:
            _vehicle(street, strip, "train", x, float(rng.uniform(8.0, 26.0)), front=bool(rng.random() < 0.6))
            continue
        while z < 70:
            kind = str(rng.choice(("car", "truck", "bus", "bike", "moto"), p=(0.62, 0.12, 0.10, 0.09, 0.07)))
            if rng.random() < 0.25 + 0.6 * city.traffic:
                if kind in ("bike", "moto"):
                    _riding(street, strip, kind == "moto", x, z)
                else:
                    _vehicle(street, strip, kind, x + float(rng.normal(0, 0.15)), z, front=k < 0)
            z += vehicles.LENGTHS.get(kind, 2.0) + float(rng.uniform(3.0, 16.0))


def _riding(street: Street, strip: int, motor: bool, x: float, z: float) -> None:
    rng, near = street.rng, min(z, 18.0)
    seed = np.random.default_rng(int(rng.integers(2**62)))
    if rng.random() < 0.4:
        street.add(strip, near, lambda: things.riding_away(street.canvas, x, near, seed, motor))
    else:
        draw = things.motorcycle if motor else things.bicycle
        street.add(strip, near, lambda: draw(street.canvas, x, near, seed, ridden=True))


def _crossing(street: Street) -> None:
    """Who crosses: people on the stripes, a car or a rider from the side, lights before it."""
    rng, z = street.rng, street.cross[0]
    if z == inf:
        return
    right, left = street.edge
    for _ in range(int(rng.poisson(2.5 * street.city.people))):
        _place(street, STRIPES, things.person, float(rng.uniform(-left, right)), z - float(rng.uniform(0.8, 2.6)))
    if rng.random() < 0.5:
        _place(street, OWN, vehicles.car_across, float(rng.uniform(-left, right)), z + 2)
    elif rng.random() < 0.6:
        motor, x = rng.random() < 0.4, float(rng.uniform(-left, right))
        seed = np.random.default_rng(int(rng.integers(2**62)))
        draw = things.motorcycle if motor else things.bicycle
        street.add(OWN, z + 2, lambda: draw(street.canvas, x, z + 2, seed, ridden=True))
    if rng.random() < 0.7:
        for x in (right + 0.4, -left - 0.4):
            _place(street, WALK, things.traffic_light, x, z - 1.2)
