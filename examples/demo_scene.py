"""The demo's subject: a wind-up songbird dancing on a painted music box, built in Blender.

`build_scene()` fills the current Blender file; `pose(bird, seconds)` moves it. The dance repeats
every `LOOP_SECONDS`. Z is up, the bird looks along -Y, the box stands on z = 0, lengths are metres.
Nothing is downloaded and nothing is random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import bpy
import demo_materials as paint
import numpy as np
from demo_light import light_scene
from demo_shapes import bezier, ellipsoid, lathe, sweep, torus, tube
from demo_workshop import Workshop, reshape
from mathutils import Matrix, Vector

LOOP_SECONDS = 0.5
COLLECTION = "music box"
BOX_TOP = 0.285
SIDES = (("left", 1.0), ("right", -1.0))
TAIL_FEATHERS = 5
CREST_WIRES = 3


@dataclass
class MusicBird:
    """The objects that `pose` moves. parts: every mesh object, by name."""

    turntable: bpy.types.Object
    root: bpy.types.Object
    head: bpy.types.Object
    jaw: bpy.types.Object
    key: bpy.types.Object
    wings: dict[str, bpy.types.Object]
    parts: dict[str, bpy.types.Object] = field(default_factory=dict)


def _build_box(shop: Workshop, turntable: bpy.types.Object) -> None:
    """The drum, its rims and the plate with the flower that turns on it."""
    brass = paint.brass()
    red = paint.lacquer("lacquer", paint.srgb("#a5122b"), 0.42)
    foot = [(0, 0.0), (0.37, 0.0), (0.395, 0.012), (0.395, 0.035), (0.36, 0.05)]
    shop.add("foot", lathe(foot), red)
    shop.add("foot_ring", torus(0.362, 0.014) + (0, 0, 0.054), brass)
    wall_z = np.linspace(0.05, 0.225, 12)
    wall = np.stack([0.335 + 0.02 * np.cos((wall_z - 0.05) / 0.175 * 2 * np.pi), wall_z], axis=1)
    diamonds = paint.harlequin("harlequin", (paint.CREAM, paint.DEEP_TEAL), around=12)
    shop.add("wall", lathe(wall), diamonds)
    shop.add("lid_ring", torus(0.366, 0.014) + (0, 0, 0.226), brass)
    lid = [(0.35, 0.226), (0.40, 0.236), (0.41, 0.25), (0.40, 0.264), (0.375, 0.27), (0.36, 0.27)]
    shop.add("lid", lathe(lid), red)
    # Evenly spaced rows, because v counts rows and the petals are drawn in v.
    plate = np.stack([np.linspace(0.36, 0.12, 13), np.full(13, 0.276)], axis=1)
    plate = np.concatenate([[(0.362, 0.262)], plate, [(0.12, 0.268)]])
    shop.add("plate", lathe(plate), paint.petals("flower", 12), turntable)
    boss = [(0.13, 0.26), (0.13, 0.278), (0.12, BOX_TOP), (0.0, BOX_TOP)]
    shop.add("boss", lathe(boss, 64), paint.plain("boss", paint.NAVY))
    bead = ellipsoid((0.016, 0.016, 0.016), 9, 14)
    for index in range(12):
        angle = 2 * math.pi * (index + 0.5) / 12
        place = (0.378 * math.cos(angle), 0.378 * math.sin(angle), 0.275)
        shop.add(f"bead{index}", bead + place, brass, turntable)


def _build_body(shop: Workshop, root: bpy.types.Object, key: bpy.types.Object) -> None:
    """Body, collar and wind-up key."""
    brass = shop.parts["foot_ring"].data.materials[0]
    pitch = math.radians(38)
    axis = Vector((0, -math.cos(pitch), math.sin(pitch)))
    down = Vector((0, -math.sin(pitch), -math.cos(pitch)))
    rotation = np.array(Matrix((down.cross(axis), down, axis)).transposed())
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 41)
    # An egg, fuller at the chest than at the tail.
    radius = 0.245 * np.cos(latitude).clip(1e-4) * (1 + 0.10 * np.sin(latitude))
    egg = lathe(np.stack([radius, 0.31 * np.sin(latitude)], axis=1), 72)
    shop.add("body", egg @ rotation.T, paint.plumage("plumage", around=16, rows=9), root)
    collar = torus(0.128, 0.02, 64, 12) @ rotation.T + np.array(axis) * 0.262
    collar_paint = paint.barber("collar", (paint.LEMON, paint.CRIMSON), 0, 16)
    shop.add("collar", collar, collar_paint, root)

    shop.add("key_shaft", tube(np.array([[0, -0.06, 0], [0, 0.13, 0]]), 0.028), brass, key)
    for name, sign in SIDES:
        angle = np.linspace(0, 2 * np.pi, 33)
        loop = np.stack(
            [sign * (0.068 + 0.062 * np.cos(angle)), 0.14 + 0 * angle, 0.05 * np.sin(angle)],
            axis=1,
        )
        shop.add(f"key_{name}", tube(loop, 0.026), brass, key)


def _build_head(shop: Workshop, head: bpy.types.Object, jaw: bpy.types.Object) -> None:
    """Head, cheeks, eyes, beak and the crest (its shape is set by `pose`)."""
    skin = paint.crown("head", 9)
    shop.add("skull", ellipsoid((0.152, 0.158, 0.15)), skin, head)
    black = paint.lacquer("eye", paint.INK, 0.06)
    white = paint.plain("eye_white", paint.IVORY)
    coral = paint.plain("cheek", paint.CORAL)
    for name, sign in SIDES:
        outward = Vector((sign * 0.66, -0.70, 0.27)).normalized()
        turn = np.array(outward.to_track_quat("Z", "Y").to_matrix())
        place = np.array(outward) * 0.143
        shop.add(f"eye_white_{name}", ellipsoid((0.052, 0.052, 0.02)) @ turn.T + place, white, head)
        shop.add(
            f"eye_{name}", ellipsoid((0.036, 0.036, 0.028)) @ turn.T + place * 1.04, black, head
        )
        outward = Vector((sign * 0.80, -0.55, -0.32)).normalized()
        turn = np.array(outward.to_track_quat("Z", "Y").to_matrix())
        cheek = ellipsoid((0.042, 0.034, 0.012)) @ turn.T + np.array(outward) * 0.147
        shop.add(f"cheek_{name}", cheek, coral, head)
    orange = paint.lacquer("beak", paint.srgb("#f28a1c"), 0.32)
    s = np.linspace(0, 1, 14)
    width = 0.085 * np.sqrt(1 - s**1.5).clip(0.02)
    path = np.stack([0 * s, -0.11 * s, -0.035 * s**2], axis=1)
    shop.add(
        "beak", sweep(path + (0, -0.138, 0.0), width, 0.7 * width, (1, 0, 0), 20), orange, head
    )
    path = np.stack([0 * s, -0.075 * s, 0.0 * s], axis=1)
    shop.add("jaw", sweep(path, 0.75 * width, 0.35 * width, (1, 0, 0), 20), orange, jaw)
    wire = paint.plain("wire", paint.PLUM)
    tips = (paint.CORAL, paint.LEMON, paint.TURQUOISE)
    for index in range(CREST_WIRES):
        shop.add(f"crest{index}", tube(_crest(index, 0.0), 0.011, 8), wire, head)
        ball = ellipsoid((0.026, 0.026, 0.026), 13, 20)
        shop.add(f"crest_ball{index}", ball, paint.lacquer(f"ball{index}", tips[index], 0.2), head)


def _crest(index: int, sway: float) -> np.ndarray:
    """Path of one crest wire in the head's space, (14, 3)."""
    lean = (index - 1) * 0.075
    control = [
        (lean * 0.4, 0.02, 0.13),
        (lean * 0.8, 0.03, 0.22),
        (lean + sway * 0.4, 0.06 + 0.01 * index, 0.27),
        (lean * 1.6 + sway, 0.10 + 0.015 * (index % 2), 0.285 - 0.02 * (index != 1)),
    ]
    return bezier(control, 14)


def _build_wings(shop: Workshop, wings: dict[str, bpy.types.Object]) -> None:
    """Five flat quills on each side, fanned out around the shoulder, and a covert over them."""
    quill = paint.feather("quill", (paint.TEAL, paint.LEMON, paint.CORAL))
    covert = paint.stripes("covert", (paint.CORAL, paint.CREAM), 3)
    for name, sign in SIDES:
        for index in range(5):
            spread = math.radians(-20 + 25 * index)
            length = 0.36 - 0.018 * index
            out = np.array([sign * math.cos(spread), math.sin(spread), 0.0])
            s = np.linspace(0, 1, 18)
            path = out * (0.02 + length * s)[:, None]
            path[:, 2] += 0.05 * np.sin(np.pi * s * 0.7) - 0.012 * index
            width = 0.125 * np.sin(np.pi * (0.12 + 0.86 * s**0.9)).clip(0.03)
            side = np.array([-out[1], out[0], 0.15 * sign])
            shop.add(
                f"quill_{name}{index}", sweep(path, width, 0.012, side, 14), quill, wings[name]
            )
        cover = ellipsoid((0.115, 0.09, 0.03), 25, 32) + (sign * 0.075, 0.035, 0.012)
        shop.add(f"covert_{name}", cover, covert, wings[name])


def _tail(index: int, phase: float) -> np.ndarray:
    """Path of one tail ribbon in the bird's space, (36, 3): up, over, and streaming down behind."""
    place = index - (TAIL_FEATHERS - 1) / 2
    spread = 0.20 * place
    lift = 0.42 - 0.05 * abs(place)
    control = np.array(
        [
            (0.02 * place, 0.18, -0.06),
            (0.25 * spread, 0.34, lift * 0.4),
            (0.8 * spread, 0.36, lift * 1.5),
            (1.15 * spread, 0.56, lift * 1.1),
            (1.2 * spread, 0.50, 0.02),
        ]
    )
    path = bezier(control, 36)
    s = np.linspace(0, 1, 36)
    wave = 0.045 * s**1.3 * np.sin(phase - 5.0 * s + 0.7 * place)
    return path + np.stack([0.9 * wave, 0 * wave, 0.7 * wave], axis=1)


def _tail_grid(index: int, phase: float) -> np.ndarray:
    s = np.linspace(0, 1, 36)
    width = 0.030 + 0.038 * np.sin(np.pi * s**1.5) - 0.020 * s**6
    return sweep(_tail(index, phase), width, 0.008, (1, 0.25 * (index - 2), 0), 12)


def _leg(sign: float, root: Matrix) -> np.ndarray:
    """Path of one leg in the world, (16, 3), from the moving hip to the foot that stands still."""
    hip = np.array(root @ Vector((sign * 0.085, 0.03, -0.19)))
    foot = np.array([sign * 0.075, -0.02, BOX_TOP + 0.012])
    knee = (hip + foot) / 2 + (sign * 0.01, 0.05, 0.0)
    return bezier([hip, knee + (0, 0.02, 0.05), knee + (0, 0.02, -0.05), foot], 16)


def _build_legs_and_tail(shop: Workshop, root: bpy.types.Object) -> None:
    leg_paint = paint.barber("leg", (paint.MARIGOLD, paint.CRIMSON), 7, 0)
    toe_paint = paint.plain("toe", paint.MARIGOLD)
    for name, sign in SIDES:
        shop.add(f"leg_{name}", tube(_leg(sign, Matrix.Translation((0, 0, 0.7))), 0.024), leg_paint)
        foot = np.array([sign * 0.075, -0.02, BOX_TOP + 0.012])
        for index, heading in enumerate((-50, -90, -130, 90)):
            angle = math.radians(heading)
            reach = 0.075 if heading < 0 else 0.05
            tip = foot + (reach * math.cos(angle), reach * math.sin(angle), -0.002)
            shop.add(f"toe_{name}{index}", tube(np.linspace(foot, tip, 5), 0.02), toe_paint)
    ribbons = [
        paint.stripes("ribbon0", (paint.CRIMSON, paint.LEMON), 7),
        paint.stripes("ribbon1", (paint.TEAL, paint.CREAM), 7),
        paint.stripes("ribbon2", (paint.MARIGOLD, paint.PLUM), 7),
    ]
    for index in range(TAIL_FEATHERS):
        material = ribbons[abs(index - 2)]
        shop.add(f"tail{index}", _tail_grid(index, 0.0), material, root)


def build_scene() -> MusicBird:
    """Replace the current Blender file by the music box and its bird, lit, at time 0."""
    bird = build_bird()
    light_scene(bpy.data.collections[COLLECTION])
    return bird


def build_bird() -> MusicBird:
    """The same without any light."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    shop = Workshop(COLLECTION)
    turntable = shop.pivot("turntable", None)
    root = shop.pivot("bird", None, (0, 0, 0.66))
    head = shop.pivot("head", root, (0, -0.255, 0.275))
    jaw = shop.pivot("jaw", head, (0, -0.138, -0.035))
    key = shop.pivot("key", root, (0, 0.20, 0.18))
    key.rotation_mode = "QUATERNION"
    wings = {
        name: shop.pivot(f"wing_{name}", root, (sign * 0.20, -0.03, 0.09)) for name, sign in SIDES
    }
    _build_box(shop, turntable)
    _build_body(shop, root, key)
    _build_head(shop, head, jaw)
    _build_wings(shop, wings)
    _build_legs_and_tail(shop, root)
    bird = MusicBird(turntable, root, head, jaw, key, wings, shop.parts)
    pose(bird, 0.0)
    return bird


def pose(bird: MusicBird, seconds: float) -> None:
    """Put everything where it is at a time; periodic with `LOOP_SECONDS`."""
    phase = 2 * math.pi * seconds / LOOP_SECONDS
    bird.turntable.rotation_euler = (0, 0, -math.radians(60) * seconds / LOOP_SECONDS)
    bird.root.location.z = 0.675 + 0.022 * math.sin(2 * phase)
    bird.root.rotation_euler = (
        math.radians(3) * math.sin(2 * phase + 1),
        math.radians(7) * math.cos(phase),
        math.radians(13) * math.sin(phase),
    )
    bird.head.rotation_euler = (
        math.radians(7) * math.sin(2 * phase + 0.6),
        math.radians(-9) * math.cos(phase - 0.5),
        math.radians(-16) * math.sin(phase - 0.4),
    )
    bird.jaw.rotation_euler = (math.radians(14) * (1 + math.sin(2 * phase)), 0, 0)
    lean = Vector((0, 0.62, 0.78)).to_track_quat("Y", "Z")
    turn = Matrix.Rotation(math.pi * seconds / LOOP_SECONDS, 4, "Y").to_quaternion()
    bird.key.rotation_quaternion = lean @ turn
    for name, sign in SIDES:
        flap = math.radians(14) + math.radians(30) * math.sin(phase)
        bird.wings[name].rotation_euler = (math.radians(10), -sign * flap, 0)
    for index in range(TAIL_FEATHERS):
        reshape(bird.parts[f"tail{index}"], _tail_grid(index, phase))
    for index in range(CREST_WIRES):
        path = _crest(index, 0.03 * math.sin(phase - 1.0 + 0.4 * index))
        reshape(bird.parts[f"crest{index}"], tube(path, 0.011, 8))
        bird.parts[f"crest_ball{index}"].location = path[-1]
    bpy.context.view_layer.update()
    for name, sign in SIDES:
        reshape(bird.parts[f"leg_{name}"], tube(_leg(sign, bird.root.matrix_world), 0.024))
    bpy.context.view_layer.update()
