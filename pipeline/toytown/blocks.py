"""What lines a street: buildings with windows, walls, fences, greens, and the backdrop at its far end."""

from math import ceil

import numpy as np

from pipeline.toytown.canvas import Canvas, Point2, Sheet
from pipeline.toytown.things import ID, bush, tree

FAR = 95.0  # meters to the backdrop


def building(canvas: Canvas, x: float, z: Point2, shape: tuple[float, float, bool], rng: np.random.Generator) -> None:
    """A house from z[0] to z[1] behind the line X = x; shape: (height, meters per floor, pitched roof)."""
    tall, floor, pitched = shape
    label, tone, out = ID["building"], float(rng.random()), 1.0 if x > 0 else -1.0
    back = x + out * float(rng.uniform(9.0, 13.0))
    side, face = canvas.side(x, label, "facade", tone), canvas.upright(z[0], label, "facade", tone)
    if pitched:
        ridge = tall + 2.6
        if tall - canvas.camera.height < 0.8 * abs(x):  # else the eaves hide a roof that rises at 45 degrees
            roof = canvas.side(x, label, "roof", tone)
            canvas.polygon(
                roof,
                [
                    (x - out * 0.3, tall - 0.1, z[0]),
                    (x - out * 0.3, tall - 0.1, z[1]),
                    (x + out * 2.6, ridge, z[1]),
                    (x + out * 2.6, ridge, z[0]),
                ],
            )
        canvas.polygon(face, [(x, tall, z[0]), (back, tall, z[0]), ((x + back) / 2, ridge, z[0])])
    canvas.polygon(face, [(x, 0, z[0]), (back, 0, z[0]), (back, tall, z[0]), (x, tall, z[0])])
    canvas.polygon(side, [(x, 0, z[0]), (x, 0, z[1]), (x, tall, z[1]), (x, tall, z[0])])
    canvas.cast(2, [(x, z[0]), (x, z[1]), (x - out * tall * 0.5, z[1] + 1), (x - out * tall * 0.5, z[0] + 1)])
    if not pitched:
        cap = canvas.side(x, label, "roof", tone)
        canvas.polygon(
            cap,
            [
                (x - out * 0.2, tall - 0.35, z[0]),
                (x - out * 0.2, tall - 0.35, z[1]),
                (x - out * 0.2, tall + 0.1, z[1]),
                (x - out * 0.2, tall + 0.1, z[0]),
            ],
        )
    _windows(canvas, x, z, (tall, floor), back, rng)


def _windows(canvas: Canvas, x: float, z: Point2, shape: Point2, back: float, rng: np.random.Generator) -> None:
    """Window grids on both faces; a share of the windows is lit at night."""
    label, (tall, floor), share = ID["building"], shape, float(rng.uniform(0.15, 0.6))
    dark, lit = canvas.side(x, label, "window", 0.5), canvas.side(x, label, "window_lit", 0.5)
    floors, columns = max(1, int(tall / floor)), max(1, int((z[1] - z[0]) / 3.0))
    step = (z[1] - z[0]) / columns
    shop = rng.random() < 0.5
    # far away, a window is less than a pixel: draw every floor as one band instead
    if canvas.camera.focal * abs(x) * step / (z[0] + step) ** 2 < 2.0:
        bands = [(z[0], z[1])]
    else:
        bands = [(z[0] + (k + 0.22) * step, z[0] + (k + 0.78) * step) for k in range(columns)]
    glow = rng.random((floors, len(bands) + 3)) < share
    for i in range(floors):
        low, high = (i + 0.3) * floor, (i + 0.8) * floor
        if i == 0 and shop:
            low = 0.4
        for k, (z0, z1) in enumerate(bands):
            canvas.polygon(lit if glow[i, k] else dark, [(x, low, z0), (x, low, z1), (x, high, z1), (x, high, z0)])
    board = Sheet(canvas, x, z[0], label)
    dark, lit = board.fill("window"), board.fill("window_lit")
    wide = (back - x) / 3
    if abs(wide) * board.scale > 6:
        for i in range(floors):
            for k in range(3):
                u = (k + 0.28) * wide, (k + 0.72) * wide
                board.rect(lit if glow[i, -k - 1] else dark, u, ((i + 0.3) * floor, (i + 0.8) * floor))


def wall(canvas: Canvas, x: float, z: Point2, rng: np.random.Generator) -> None:
    """A free-standing wall with a coping and pillars."""
    label, tone, tall = ID["wall"], float(rng.random()), float(rng.uniform(1.5, 2.6))
    plain, trim = canvas.side(x, label, "wall", tone), canvas.side(x, label, "wall_trim", tone)
    canvas.polygon(plain, [(x, 0, z[0]), (x, 0, z[1]), (x, tall, z[1]), (x, tall, z[0])])
    canvas.polygon(trim, [(x, tall - 0.25, z[0]), (x, tall - 0.25, z[1]), (x, tall, z[1]), (x, tall, z[0])])
    for z0 in np.arange(z[0], z[1] - 0.5, 4.0):
        canvas.polygon(trim, [(x, 0, z0), (x, 0, z0 + 0.5), (x, tall + 0.2, z0 + 0.5), (x, tall + 0.2, z0)])


def fence(canvas: Canvas, x: float, z: Point2, rng: np.random.Generator) -> None:
    """Posts and rails over a mesh; the whole area is fence, as annotators draw it."""
    label, tone, tall = ID["fence"], float(rng.random()), float(rng.uniform(1.2, 2.0))
    mesh, wood = canvas.side(x, label, "fence_mesh", tone), canvas.side(x, label, "fence", tone)
    canvas.polygon(mesh, [(x, 0, z[0]), (x, 0, z[1]), (x, tall, z[1]), (x, tall, z[0])])
    for low in (0.2, tall - 0.2):
        canvas.polygon(wood, [(x, low, z[0]), (x, low, z[1]), (x, low + 0.2, z[1]), (x, low + 0.2, z[0])])
    for z0 in np.arange(z[0], min(z[1], 40.0), max(0.7, 0.06 * z[0])):
        canvas.polygon(wood, [(x, 0, z0), (x, 0, z0 + 0.22), (x, tall, z0 + 0.22), (x, tall, z0)])


def green(canvas: Canvas, x: float, z: Point2, rng: np.random.Generator, hedge: bool) -> None:
    """Trees behind the line X = x, with or without a hedge along it."""
    out = 1.0 if x > 0 else -1.0
    spots = sorted(rng.uniform(z[0], z[1], 1 + int((z[1] - z[0]) / 5)), reverse=True)
    for z0 in np.maximum(spots, 3.0):
        spot = x + out * float(rng.uniform(2.5, 7.0))
        if canvas.sees(spot, z0, 3.0):
            tree(canvas, spot, float(z0), rng)
    if hedge:
        label, tone, tall = ID["vegetation"], float(rng.random()), float(rng.uniform(1.0, 2.0))
        front = canvas.side(x + out * 0.5, label, "leaf", tone)
        face = canvas.upright(z[0], label, "leaf_dark", tone)
        x0, x1 = x + out * 0.5, x + out * 2.0
        canvas.polygon(face, [(x0, 0, z[0]), (x1, 0, z[0]), (x1, tall, z[0]), (x0, tall, z[0])])
        canvas.polygon(front, [(x0, 0, z[0]), (x0, 0, z[1]), (x0, tall, z[1]), (x0, tall, z[0])])
    elif rng.random() < 0.6:
        bush(canvas, x + out * 1.0, max(float(spots[-1]), 3.0), rng)


def backdrop(canvas: Canvas, height: Point2, rng: np.random.Generator) -> None:
    """Distant houses and trees across the whole picture."""
    half = canvas.size[1] / canvas.camera.focal * FAR
    x = -half
    while x < half:
        wide = float(rng.uniform(8.0, 20.0))
        if rng.random() < 0.6:
            tall = float(rng.uniform(*height)) * 0.8
            board = Sheet(canvas, x, FAR, ID["building"])
            board.rect(board.fill("facade", float(rng.random())), (0, wide), (0, tall))
            dark = board.fill("window")
            for k in range(ceil(tall / 4) - 1):
                board.rect(dark, (1.5, wide - 1.5), (4 * k + 2.0, 4 * k + 2.6))
        else:
            board = Sheet(canvas, x, FAR, ID["vegetation"])
            board.disc(board.fill("leaf", float(rng.random())), wide / 2, 2.0, wide * 0.6, float(rng.uniform(4, 8)))
        x += wide
