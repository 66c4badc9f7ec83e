"""The demo's room: a living room with a window, in which the music box stands on the rug.

Axes of `demo_scene` (z up, metres, the bird looks along -Y). The cameras stand inside the room too,
before its front wall. Nothing is downloaded; what looks random comes from a fixed seed.
"""

from __future__ import annotations

import demo_materials
import numpy as np
import room_materials as paint
from demo_scene import MusicBird, build_bird
from demo_shapes import bezier, closed_surface, ellipsoid, joined, lathe, sweep, torus, tube
from demo_workshop import Workshop
from room_light import light_room
from room_shapes import box, boxes, curtain, cushion, sheet

ROOM = "room"
LEFT, RIGHT, FRONT, BACK, FLOOR, CEILING = -2.6, 2.6, -3.7, 1.9, -0.012, 2.7
# The window in the left wall: (y, z) of its lower and upper corner.
WINDOW = ((-0.75, 0.85), (0.75, 2.2))
RUG = (2.7, 1.9)
SEED = 4


def build_room(quick: bool = False) -> MusicBird:
    """Replace the current Blender file by the furnished and lit room with the bird, at time 0.

    quick: bake its light with few samples.
    """
    bird = build_bird()
    for part in bird.parts.values():
        part.pass_index = 1  # what masks show
    shop = Workshop(ROOM)
    _build_walls(shop)
    _build_window(shop)
    _build_sofa(shop)
    _build_shelf(shop, np.random.default_rng(SEED))
    _build_table(shop)
    _build_plant(shop, np.random.default_rng(SEED))
    _build_pictures(shop)
    _build_toys(shop)
    light_room(shop, samples=4 if quick else 48)
    return bird


def _build_walls(shop: Workshop) -> None:
    width, depth, height = RIGHT - LEFT, BACK - FRONT, CEILING - FLOOR
    oak = paint.wood("planks", paint.OAK, plank=0.14)
    shop.add_surface("floor", sheet((RIGHT, FRONT, FLOOR), (0, depth, 0), (-width, 0, 0)), oak)
    paper = paint.wallpaper("wallpaper")
    shop.add_surface("back", sheet((LEFT, BACK, FLOOR), (width, 0, 0), (0, 0, height)), paper)
    sage, white = paint.plaster("sage", paint.SAGE), paint.plaster("white", paint.WHITE)
    shop.add_surface("right", sheet((RIGHT, BACK, FLOOR), (0, -depth, 0), (0, 0, height)), sage)
    shop.add_surface("front", sheet((RIGHT, FRONT, FLOOR), (-width, 0, 0), (0, 0, height)), white)
    ceiling = sheet((LEFT, FRONT, CEILING), (0, depth, 0), (width, 0, 0))
    shop.add_surface("ceiling", ceiling, white)
    (y0, z0), (y1, z1) = WINDOW
    around = (
        ((FRONT, FLOOR), (y0, CEILING)),
        ((y1, FLOOR), (BACK, CEILING)),
        ((y0, FLOOR), (y1, z0)),
        ((y0, z1), (y1, CEILING)),
    )
    left = [sheet((LEFT, a, b), (0, c - a, 0), (0, 0, d - b)) for (a, b), (c, d) in around]
    shop.add_surface("left", joined(left), paint.plaster("cream", paint.PLASTER))
    skirting = boxes(
        ((LEFT, BACK - 0.02, FLOOR), (RIGHT, BACK, 0.11)),
        ((LEFT, FRONT, FLOOR), (LEFT + 0.02, BACK, 0.11)),
        ((RIGHT - 0.02, FRONT, FLOOR), (RIGHT, BACK, 0.11)),
    )
    shop.add_surface("skirting", skirting, paint.plain("skirting", paint.WHITE), smooth=False)
    x, y = RUG
    rug = sheet((-x / 2, -y / 2, -0.001), (x, 0, 0), (0, y, 0), 0.06)
    shop.add_surface("rug", rug, paint.rug("rug", RUG))


def _build_window(shop: Workshop) -> None:
    (y0, z0), (y1, z1) = WINDOW
    x, middle, bar = LEFT, (y0 + y1) / 2, 0.035
    frame = boxes(
        ((x - 0.12, y0 - 0.06, z0 - 0.06), (x + 0.03, y0, z1 + 0.06)),
        ((x - 0.12, y1, z0 - 0.06), (x + 0.03, y1 + 0.06, z1 + 0.06)),
        ((x - 0.12, y0, z1), (x + 0.03, y1, z1 + 0.06)),
        ((x - 0.12, y0 - 0.1, z0 - 0.05), (x + 0.14, y1 + 0.1, z0)),
        ((x - 0.08, middle - bar, z0), (x - 0.03, middle + bar, z1)),
        ((x - 0.08, y0, z0 + 0.85), (x - 0.03, y1, z0 + 0.9)),
    )
    shop.add_surface("window", frame, paint.plain("window", paint.WHITE), smooth=False)
    cloth = paint.striped_cloth("curtain", (paint.LINEN, paint.MUSTARD, paint.RUST), 0.42)
    for name, start in (("far", y1 - 0.02), ("near", y0 - 0.48)):
        hanging = curtain((x + 0.10, start, 0.12), 0.5, z1 + 0.1, folds=5)
        shop.add_surface(f"curtain_{name}", hanging, cloth)
    rod = np.array([(x + 0.1, y0 - 0.6, z1 + 0.24), (x + 0.1, y1 + 0.6, z1 + 0.24)])
    shop.add("rod", tube(np.linspace(*rod, 12), 0.03), demo_materials.brass())


def _build_sofa(shop: Workshop) -> None:
    x, w, y = 0.35, 0.95, 1.78
    cover = paint.cloth("sofa", paint.srgb("#2f6a6a"))
    body = [
        cushion((x - w, y - 0.75, 0.12), (x + w, y, 0.36), 0.2),
        cushion((x - w, y - 0.26, 0.2), (x + w, y, 0.86), 0.25),
        cushion((x - w - 0.16, y - 0.82, 0.1), (x - w + 0.06, y, 0.62), 0.3),
        cushion((x + w - 0.06, y - 0.82, 0.1), (x + w + 0.16, y, 0.62), 0.3),
        cushion((x - w + 0.05, y - 0.8, 0.33), (x - 0.01, y - 0.2, 0.5)),
        cushion((x + 0.01, y - 0.8, 0.33), (x + w - 0.05, y - 0.2, 0.5)),
    ]
    shop.add_surface("sofa", joined(body), cover)
    legs = [
        box((a - 0.03, b - 0.03, FLOOR), (a + 0.03, b + 0.03, 0.14))
        for a in (x - w, x + w)
        for b in (y - 0.7, y - 0.06)
    ]
    walnut = paint.wood("sofa_legs", paint.WALNUT)
    shop.add_surface("sofa_legs", joined(legs), walnut, smooth=False)
    striped = paint.striped_cloth("pillow", (paint.MUSTARD, paint.LINEN, paint.NIGHT), 0.12)
    pillow = cushion((-0.24, -0.09, -0.21), (0.24, 0.09, 0.21), 0.5)
    for index, (place, turn, tilt, material) in enumerate(
        (
            ((x - 0.62, y - 0.36, 0.68), 0.35, 0.3, striped),
            ((x + 0.66, y - 0.36, 0.68), -0.3, 0.35, paint.cloth("rust", paint.RUST, 0.02)),
        )
    ):
        part = shop.add_surface(f"pillow{index}", pillow, material)
        part.location, part.rotation_euler = place, (-tilt, 0.12, turn)


def _build_shelf(shop: Workshop, rng: np.random.Generator) -> None:
    """A bookcase in the back left corner: books, a globe, a pot and a row of boxes."""
    x0, x1, y0, y1, top, board = -2.3, -1.15, 1.55, 1.88, 1.95, 0.03
    levels = np.linspace(0.08, top - board, 6)
    case = [((x0, y0, FLOOR), (x0 + board, y1, top)), ((x1 - board, y0, FLOOR), (x1, y1, top))]
    case += [((x0 + board, y0, z), (x1 - board, y1, z + board)) for z in levels]
    case += [((x0 + board, y1 - 0.015, 0.08), (x1 - board, y1, top))]
    pine = paint.wood("shelf", paint.PINE)
    shop.add_surface("shelf", boxes(*case), pine, smooth=False)
    colors = ["8c2f2b", "24496b", "d8b25a", "3f5b3a", "e4dccb", "5a3b5e", "c46a3a", "1f2a33"]
    colors = [paint.srgb(f"#{code}") for code in colors]
    covers = [
        paint.spine(f"cover{i}", color, colors[(i + 4) % 8]) for i, color in enumerate(colors)
    ]
    books: list[list] = [[] for _ in covers]
    for level, z in enumerate(levels[:-1]):
        x, end = x0 + board + 0.01, x1 - board - (0.40 if level in (1, 3) else 0.06)
        while True:
            thick, tall = rng.uniform(0.022, 0.055), rng.uniform(0.21, 0.31)
            if x + thick > end:
                break
            deep = rng.uniform(0.17, 0.22)
            low, high = (x, y0 + 0.03, z + board), (x + thick, y0 + 0.03 + deep, z + board + tall)
            books[rng.integers(len(covers))].append(box(low, high))
            x += thick + rng.uniform(0.001, 0.004)
    for index, (cover, volumes) in enumerate(zip(covers, books, strict=True)):
        if volumes:
            shop.add_surface(f"books{index}", joined(volumes), cover, smooth=False)
    ball = ellipsoid((0.11, 0.11, 0.11)) + (x1 - 0.24, y0 + 0.14, levels[3] + board + 0.17)
    shop.add("globe", ball, paint.glaze("globe", paint.srgb("#3d7ea6"), paint.LEAF[1], 7))
    stand = lathe([(0.001, 0.0), (0.08, 0.0), (0.08, 0.015), (0.015, 0.03), (0.015, 0.07)], 32)
    stand += (x1 - 0.24, y0 + 0.14, levels[3] + board)
    shop.add("globe_stand", stand, paint.plain("stand", paint.WALNUT[0]))
    pot = [(0.001, 0), (0.07, 0), (0.11, 0.07), (0.10, 0.15), (0.05, 0.20), (0.065, 0.23)]
    vase = lathe(pot, 48) + (x1 - 0.24, y0 + 0.15, levels[1] + board)
    shop.add("vase", vase, paint.glaze("vase", paint.CLAY, paint.srgb("#f2e2c0"), 11))
    lidded = [
        box((x0 + 0.1 + 0.36 * i, y0 + 0.04, top), (x0 + 0.36 + 0.36 * i, y0 + 0.28, top + 0.17))
        for i in range(3)
    ]
    kraft = paint.striped_cloth("boxes", (paint.LINEN, paint.srgb("#c7a77b"), paint.RUST), 0.09)
    shop.add_surface("boxes", joined(lidded), kraft, smooth=False)


def _build_table(shop: Workshop) -> None:
    """A round table on the right with a lamp, a teapot and a pile of books."""
    place = np.array([2.0, 0.95, 0.0])
    walnut = paint.wood("table", paint.WALNUT, gloss=0.35)
    rim = np.stack([np.linspace(0.42, 0.001, 8), np.full(8, 0.62)], axis=1)
    top = lathe([(0.001, 0.585), (0.40, 0.585), (0.42, 0.595), *rim.tolist()], 64)
    foot = [(0.26, FLOOR), (0.26, 0.01), (0.07, 0.05), (0.035, 0.2), (0.045, 0.45), (0.11, 0.58)]
    shop.add("table", top + place, walnut)
    shop.add("table_foot", lathe(foot, 48) + place, walnut)
    spot = place + (0.12, 0.14, 0.62)
    base = [(0.001, 0), (0.09, 0), (0.09, 0.01), (0.04, 0.03), (0.075, 0.14), (0.02, 0.25)]
    stem = lathe([*base, (0.012, 0.30), (0.012, 0.40)], 48)
    shop.add("lamp", stem + spot, paint.glaze("lamp", paint.srgb("#274b63"), paint.LINEN, 9))
    shade = lathe(np.stack([np.linspace(0.19, 0.11, 7), np.linspace(0.33, 0.60, 7)], 1), 64)
    shop.add("shade", shade + spot, paint.lit("shade", (0.95, 0.62, 0.30), (0.75, 0.45, 0.20)))
    pot = [(0.001, 0), (0.06, 0), (0.095, 0.06), (0.09, 0.11), (0.04, 0.145), (0.02, 0.15)]
    pot += [(0.018, 0.17), (0.001, 0.175)]
    spot = place + (-0.17, -0.13, 0.62)
    china = paint.glaze("china", paint.srgb("#f1ece0"), paint.srgb("#33588f"), 8)
    shop.add("teapot", lathe(pot, 48) + spot, china)
    spout = bezier([(0.08, 0, 0.04), (0.14, 0, 0.05), (0.12, 0, 0.12), (0.17, 0, 0.13)], 14)
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    shop.add("spout", tube(spout @ turn + spot, np.linspace(0.045, 0.02, 14)), china)
    grip = bezier([(-0.08, 0, 0.11), (-0.17, 0, 0.14), (-0.17, 0, 0.03), (-0.08, 0, 0.04)], 14)
    shop.add("grip", tube(grip @ turn + spot, 0.017), china)
    for index, (size, color) in enumerate(((0.125, "#7b2d3a"), (0.11, "#d5c28f"))):
        z, u = 0.62 + 0.035 * index, place + (0.13, -0.2, 0)
        pages = box((u[0] - size, u[1] - 0.08, z), (u[0] + size, u[1] + 0.08, z + 0.034))
        cover = paint.spine(f"pile{index}", paint.srgb(color), paint.WHITE)
        shop.add_surface(f"pile{index}", pages, cover, smooth=False)


def _build_plant(shop: Workshop, rng: np.random.Generator) -> None:
    """A rubber plant in a clay pot, by the window."""
    place = np.array([-2.15, 1.12, FLOOR])
    rim = [(0.001, 0), (0.13, 0), (0.18, 0.30), (0.195, 0.30), (0.195, 0.34), (0.17, 0.34)]
    shop.add("pot", lathe([*rim, (0.16, 0.29)], 48) + place, paint.plain("pot", paint.CLAY))
    earth = lathe([(0.17, 0.30), (0.001, 0.31)], 32) + place
    shop.add("earth", earth, paint.plain("earth", paint.srgb("#2a1c12")))
    leaves = []
    for index in range(22):
        heading, lift = 2.4 * index, 0.45 + 0.028 * index
        out = np.array([np.cos(heading), np.sin(heading), 0])
        reach = rng.uniform(0.22, 0.36) * (1.1 - 0.02 * index)
        start = place + (0, 0, lift)
        path = bezier(
            [start, start + out * 0.4 * reach + (0, 0, 0.18), start + out * reach + (0, 0, 0.1)], 12
        )
        s = np.linspace(0, 1, 12)
        width = 0.13 * np.sin(np.pi * (0.04 + 0.95 * s**0.8)).clip(0.04)
        leaves.append(closed_surface(sweep(path, width, 0.006, (-out[1], out[0], 0.2), 8)))
    shop.add_surface("leaves", joined(leaves), paint.leaf("leaf"))
    stem = bezier([place + (0, 0, 0.28), place + (0.03, 0, 0.7), place + (0, 0, 1.1)], 12)
    shop.add("stem", tube(stem, 0.028), paint.plain("stem", paint.srgb("#4b5a2b")))


def _build_pictures(shop: Workshop) -> None:
    def picture(name: str, x: float, z: float, size: tuple[float, float], image) -> None:
        (w, h), y, edge = size, BACK - 0.02, 0.045
        frame = boxes(
            ((x - w / 2 - edge, y - 0.02, z - h / 2 - edge), (x - w / 2, BACK, z + h / 2 + edge)),
            ((x + w / 2, y - 0.02, z - h / 2 - edge), (x + w / 2 + edge, BACK, z + h / 2 + edge)),
            ((x - w / 2, y - 0.02, z - h / 2 - edge), (x + w / 2, BACK, z - h / 2)),
            ((x - w / 2, y - 0.02, z + h / 2), (x + w / 2, BACK, z + h / 2 + edge)),
        )
        shop.add_surface(f"frame_{name}", frame, paint.wood(name, paint.WALNUT), smooth=False)
        canvas = sheet((x - w / 2, y, z - h / 2), (w, 0, 0), (0, 0, h))
        shop.add_surface(f"canvas_{name}", canvas, image)

    picture("large", 0.25, 1.62, (1.05, 0.7), paint.landscape("landscape", (1.05, 0.7)))
    ogees = paint.striped_cloth("print", (paint.RUST, paint.LINEN, paint.NIGHT), 0.11)
    picture("small", 1.35, 1.75, (0.34, 0.44), ogees)
    facing_front = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # the z axis becomes -y
    disk = lathe([(0.16, 0.0), (0.13, 0.03), (0.001, 0.03)], 64) @ facing_front
    face = paint.glaze("clock", paint.WHITE, paint.NIGHT, 12)
    shop.add("clock", disk + (1.95, BACK, 1.85), face)
    ring = torus(0.16, 0.018) @ facing_front + (1.95, BACK - 0.015, 1.85)
    shop.add("clock_ring", ring, demo_materials.brass())


def _build_toys(shop: Workshop) -> None:
    """A ball, blocks and a stool on the floor: things in front of other things."""
    ball = ellipsoid((0.13, 0.13, 0.13)) + (0.95, -0.35, 0.13)
    stripes = paint.striped_cloth("ball", (paint.RUST, paint.WHITE, paint.NIGHT), 0.25)
    shop.add("ball", ball, stripes)
    blocks = (
        ((-0.95, -0.5, 0), 0.14, "#c0392b"),
        ((-0.78, -0.42, 0), 0.14, "#2e6f9e"),
        ((-0.88, -0.47, 0.14), 0.14, "#e0b03a"),
    )
    for index, ((x, y, z), size, color) in enumerate(blocks):
        block = box((x, y, z), (x + size, y + size, z + size))
        material = paint.wood(f"block{index}", (paint.srgb(color), paint.srgb(color)))
        shop.add_surface(f"block{index}", block, material, smooth=False)
    x, y = -1.75, -0.1
    seat = cushion((x - 0.24, y - 0.24, 0.34), (x + 0.24, y + 0.24, 0.46), 0.4)
    shop.add_surface("stool", seat, paint.cloth("stool", paint.MUSTARD, 0.02))
    legs = [
        box((x + a - 0.02, y + b - 0.02, FLOOR), (x + a + 0.02, y + b + 0.02, 0.38))
        for a in (-0.18, 0.18)
        for b in (-0.18, 0.18)
    ]
    shop.add_surface("stool_legs", joined(legs), paint.wood("legs", paint.PINE), smooth=False)
