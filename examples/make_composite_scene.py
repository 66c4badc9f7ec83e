# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a .blend file in which Cycles' objects move around a clip, composited by Peel4D.

    python examples/make_composite_scene.py [CLIP] [-o build/composite] [--render 1,12]
    blender -b -P examples/make_composite_scene.py -- [CLIP] [-o build/composite] [--render 1,12]

Without CLIP it takes the clip of `make demo`, or makes a small ball of points if that is not there.
A ring passes around the subject, in front of it and behind it, a sphere circles it the other way
round, the camera moves. `blender -b build/composite/composite.blend -a` renders all of it where the
extension is installed; --render does it here for some frames ("all" for the animation).
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector

try:
    import peel4d  # beside Blender's module

    peel4d.register()
except ImportError:  # in Blender itself, where it is an extension
    enabled = [each.module for each in bpy.context.preferences.addons]
    enabled = [module for module in enabled if module.endswith(".peel4d")]
    if not enabled:
        sys.exit("Peel4D is not enabled in Blender's preferences")
    peel4d = importlib.import_module(enabled[0])

DEMO_CLIP = Path("build/demo/reconstruction/clip.p4d")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clip", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/composite"))
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", default="960x540", help="WIDTHxHEIGHT")
    parser.add_argument("--samples", type=int, default=32, help="of Cycles, per pixel")
    parser.add_argument("--render", help='frames as "1,12", or "all"')
    # What stands before -- is for Blender, where this runs in the application.
    options = parser.parse_args(sys.argv[1:][sys.argv.index("--") if "--" in sys.argv else 0 :])
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    clip = options.clip or (DEMO_CLIP if DEMO_CLIP.exists() else make_ball(output / "ball.p4d"))

    bpy.ops.wm.read_homefile(use_empty=True)
    blend = output / "composite.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))  # so that the clip's path is relative to it
    scene = bpy.context.scene
    bpy.ops.import_scene.peel4d(filepath=str(clip.resolve()), cameras=False, relative_path=True)
    subject = bpy.context.active_object
    subject.peel4d.sequence_mode = "PING_PONG"
    bpy.context.view_layer.update()

    scene.frame_start, scene.frame_end = 1, options.frames
    scene.render.resolution_x, scene.render.resolution_y = map(int, options.size.split("x"))
    scene.render.engine = "CYCLES"
    scene.cycles.samples = options.samples
    scene.cycles.use_denoising = False
    scene.view_settings.view_transform = "Standard"  # which leaves the footage as it was
    build(scene, *extent(subject))
    bpy.ops.scene.peel4d_composite()

    scene.render.image_settings.file_format = "PNG"
    scene.render.filepath = "//pictures/"
    bpy.ops.wm.save_mainfile()
    print(f"{blend}: render it with   blender -b {blend} -a")
    if options.render == "all":
        bpy.ops.render.render(animation=True)
    elif options.render:
        for frame in map(int, options.render.split(",")):
            scene.frame_set(frame)
            scene.render.filepath = f"//pictures/{frame:04d}.png"
            bpy.ops.render.render(write_still=True)
    return 0


def make_ball(path: Path) -> Path:
    """A clip of 12 frames: a ball of points that breathes."""
    splats_of = part("render.splats").Splats
    rng = np.random.default_rng(4)
    direction = rng.normal(size=(40_000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    stripes = np.sin(9 * direction[:, 2:]) > 0
    color = np.where(stripes, (0.85, 0.55, 0.2), (0.15, 0.35, 0.7))
    color = color * (0.6 + 0.4 * direction[:, 2:])
    size = len(direction)
    frames = [
        splats_of.from_colors(
            direction * (0.5 + 0.05 * math.sin(2 * math.pi * index / 12)) + (0.0, 0.0, 0.55),
            np.full(size, 0.011),
            np.full(size, 0.9),
            color,
        )
        for index in range(12)
    ]
    settings = part("render.settings").PeelSettings()
    part("clip.writer").write_clip(path, frames, fps=24.0, settings=settings, up=(0.0, 0.0, 1.0))
    return path


def part(name: str):
    """A module of the engine, which has another place in an extension."""
    return importlib.import_module(f"{peel4d.__name__}.engine.{name}")


def extent(subject: bpy.types.Object) -> tuple[Vector, Vector]:
    """Lowest and highest corner of the clip's box in the world."""
    corners = [subject.matrix_world @ Vector(corner) for corner in subject.bound_box]
    low, high = (Vector(map(f, zip(*corners, strict=True))) for f in (min, max))
    return low, high


def build(scene: bpy.types.Scene, low: Vector, high: Vector) -> None:
    """CG, light and camera to the measure of the subject's box."""
    centre, size = (low + high) / 2, high - low
    radius = 0.5 * max(size.x, size.y) * 1.25
    first, last = scene.frame_start, scene.frame_end

    ring = add(scene, "ring", lambda: bpy.ops.mesh.primitive_torus_add(
        major_radius=radius, minor_radius=0.09 * radius, major_segments=96, minor_segments=24
    ))  # fmt: skip
    shade(ring, (0.9, 0.35, 0.08), metallic=0.9, roughness=0.25)
    pivot = empty(scene, "ring pivot", centre)
    ring.parent = pivot
    ring.rotation_euler = (math.radians(22), 0.0, 0.0)
    animate(pivot, "rotation_euler", 2, 0.0, 2 * math.pi, first, last + 1)
    animate(pivot, "location", 2, centre.z - 0.2 * size.z, centre.z + 0.2 * size.z, first, last)

    ball = add(scene, "ball", lambda: bpy.ops.mesh.primitive_uv_sphere_add(
        segments=48, ring_count=24, radius=0.17 * radius
    ))  # fmt: skip
    shade(ball, (0.1, 0.5, 0.9), metallic=0.0, roughness=0.1)
    orbit = empty(scene, "ball pivot", centre)
    ball.parent = orbit
    ball.location = (0.95 * radius, 0.0, 0.2 * size.z)
    animate(orbit, "rotation_euler", 2, math.pi, -math.pi, first, last + 1)

    floor = add(scene, "floor", lambda: bpy.ops.mesh.primitive_plane_add(size=30 * radius))
    floor.location = (centre.x, centre.y, low.z - 0.005 * radius)
    shade(floor, (0.32, 0.33, 0.35), metallic=0.0, roughness=0.6)

    for name, place, energy, width in (
        ("key", (2.5, -2.5, 3.5), 180.0, 1.5),
        ("rim", (-2.5, 2.0, 2.5), 120.0, 1.0),
    ):
        light = bpy.data.lights.new(name, "AREA")
        light.energy, light.size = energy * radius**2, width * radius
        lamp = bpy.data.objects.new(name, light)
        scene.collection.objects.link(lamp)
        lamp.location = centre + radius * Vector(place)
        lamp.rotation_euler = (centre - lamp.location).to_track_quat("-Z", "Y").to_euler()
    scene.world = bpy.data.worlds.new("world")
    scene.world.use_nodes = True
    background = scene.world.node_tree.nodes["Background"]
    background.inputs["Color"].default_value = (0.25, 0.27, 0.3, 1.0)

    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.lens = 40.0
    dolly = empty(scene, "camera pivot", centre)
    camera.parent = dolly
    camera.location = Vector((0.0, -1.0, 0.35)).normalized() * 2.3 * max(size.z, 2.2 * radius)
    camera.rotation_euler = (-camera.location).to_track_quat("-Z", "Y").to_euler()
    animate(dolly, "rotation_euler", 2, math.radians(-20), math.radians(25), first, last)


def add(scene: bpy.types.Scene, name: str, operator) -> bpy.types.Object:
    operator()
    made = bpy.context.active_object
    made.name = name
    for polygon in made.data.polygons:
        polygon.use_smooth = True
    return made


def empty(scene: bpy.types.Scene, name: str, location: Vector) -> bpy.types.Object:
    made = bpy.data.objects.new(name, None)
    made.location, made.empty_display_size = location, 0.1
    scene.collection.objects.link(made)
    return made


def shade(item: bpy.types.Object, rgb, *, metallic: float, roughness: float) -> None:
    material = bpy.data.materials.new(item.name)
    material.use_nodes = True
    material.diffuse_color = (*rgb, 1.0)  # in viewports
    inputs = material.node_tree.nodes["Principled BSDF"].inputs
    inputs["Base Color"].default_value = (*rgb, 1.0)
    inputs["Metallic"].default_value = metallic
    inputs["Roughness"].default_value = roughness
    item.data.materials.append(material)


def animate(
    item: bpy.types.Object, path: str, axis: int, begin: float, end: float, first: int, last: int
) -> None:
    """From begin to end at constant speed."""
    preferences = bpy.context.preferences.edit
    before = preferences.keyframe_new_interpolation_type
    preferences.keyframe_new_interpolation_type = "LINEAR"
    for frame, value in ((first, begin), (last, end)):
        getattr(item, path)[axis] = value
        item.keyframe_insert(path, index=axis, frame=frame)
    preferences.keyframe_new_interpolation_type = before


if __name__ == "__main__":
    sys.exit(main())
