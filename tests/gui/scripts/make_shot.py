"""Runs inside the real Blender with the extension: saves a shot in which everything moves.

usage: blender -b -P make_shot.py -- FOLDER [ENGINE]

FOLDER/shot.blend: 24 frames of a clip (ping-pong) and a copy of it (repeated, half as fast, its
opacity and exposure animated), a ring whose place and shape change, a camera that moves. ENGINE:
PEEL4D (default), or COMPOSITE for Cycles with the clips over it.
"""

import importlib
import math
import sys
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector

ARGUMENTS = sys.argv[sys.argv.index("--") + 1 :]
FOLDER = Path(ARGUMENTS[0])
ENGINE = ARGUMENTS[1] if len(ARGUMENTS) > 1 else "PEEL4D"
MODULE = "bl_ext.user_default.peel4d"


def package(name):
    return importlib.import_module(f"{MODULE}.engine.{name}")


def write_clip(path, frames=5, points=12_000):
    """A striped ball that changes its shape, opaque in the middle and loose at its rim."""
    rng = np.random.default_rng(3)
    direction = rng.normal(size=(points, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    rgb = 0.5 + 0.45 * np.sin(7 * direction[:, 2:] + [0.0, 2.0, 4.0])
    made = []
    for frame in range(frames):
        bump = 0.45 + 0.07 * np.sin(5 * direction[:, :1] + 1.3 * frame)
        made.append(
            package("render.splats").Splats.from_colors(
                direction * bump * rng.uniform(0.97, 1.03, (points, 1)),
                np.full(points, 0.03),
                rng.uniform(0.6, 1.0, points),
                rgb,
            )
        )
    package("clip.writer").write_clip(
        path, made, fps=24.0, settings=package("render.settings").PeelSettings(layers=10)
    )


def animate(owner, path, *values, index=-1):
    """Spread over the 24 frames."""
    for number, value in enumerate(values):
        target = owner
        name = path
        if "." in path:
            first, name = path.split(".")
            target = getattr(owner, first)
        if index >= 0:
            getattr(target, name)[index] = value
        else:
            setattr(target, name, value)
        frame = 1 + 23 * number / (len(values) - 1)
        owner.keyframe_insert(path, frame=frame, **({"index": index} if index >= 0 else {}))


def add_ring(scene):
    bpy.ops.mesh.primitive_torus_add(
        major_radius=0.62, minor_radius=0.07, major_segments=48, minor_segments=12
    )
    ring = bpy.context.object
    ring.name = "ring"
    ring.data.shade_smooth()
    ring.modifiers.new("smooth", "SUBSURF").render_levels = 1
    wave = ring.modifiers.new("wave", "WAVE")
    wave.height, wave.width, wave.speed = 0.12, 0.8, 0.1
    material = bpy.data.materials.new("ring")
    material.use_nodes = True
    shader = material.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (0.8, 0.25, 0.05, 1.0)
    ring.data.materials.append(material)
    animate(ring, "rotation_euler", 0.2, 0.9, index=0)
    animate(ring, "location", -0.15, 0.2, -0.1, index=2)
    return ring


def main():
    bpy.ops.wm.read_homefile(use_empty=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_clip(FOLDER / "shot.p4d")
    blend = FOLDER / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    bpy.ops.import_scene.peel4d(filepath=str(FOLDER / "shot.p4d"), up="Z")
    scene = bpy.context.scene
    clip = bpy.context.active_object
    clip.peel4d.sequence_mode = "PING_PONG"
    animate(clip, "location", -0.15, 0.15, index=0)
    small = clip.copy()
    scene.collection.objects.link(small)
    small.scale = (0.4, 0.4, 0.4)
    small.peel4d.sequence_mode, small.peel4d.speed = "REPEAT", 0.5
    animate(small, "location", (0.8, -0.2, 0.3), (-0.5, -0.6, 0.3))
    animate(small, "peel4d.opacity", 0.2, 1.0)
    animate(small, "peel4d.exposure", 0.0, 1.5)
    add_ring(scene)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.shift_x = 0.03
    for frame in (1, 12, 24):
        angle = 0.02 * frame
        camera.location = (2.4 * math.sin(angle), -2.4 * math.cos(angle), 0.9)
        camera.rotation_euler = (-Vector(camera.location)).to_track_quat("-Z", "Y").to_euler()
        camera.keyframe_insert("location", frame=frame)
        camera.keyframe_insert("rotation_euler", frame=frame)
    animate(camera.data, "lens", 45.0, 60.0)
    scene.frame_start, scene.frame_end = 1, 24
    scene.render.resolution_x, scene.render.resolution_y = 240, 160
    scene.render.film_transparent = True
    scene.render.dither_intensity = 0.0
    scene.view_settings.view_transform = "Standard"
    scene.render.engine = "PEEL4D"
    scene.peel4d.samples = "2"
    if ENGINE == "COMPOSITE":
        lamp = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
        scene.collection.objects.link(lamp)
        bpy.ops.scene.peel4d_composite()
        scene.cycles.samples, scene.cycles.use_denoising = 2, False
        scene.cycles.device = "CPU"
        scene.render.film_transparent = False
    image = scene.render.image_settings
    if hasattr(image, "media_type"):  # Blender 5
        image.media_type = "IMAGE"
    image.file_format, image.color_mode = "OPEN_EXR", "RGBA"
    image.color_depth, image.exr_codec = "32", "NONE"
    scene.render.filepath = "//batch/"
    bpy.ops.wm.save_mainfile()


main()
