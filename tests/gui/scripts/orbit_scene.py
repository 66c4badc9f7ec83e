"""A clip of many points, a ring around it, and one large viewport to turn around them."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import numpy as np
import window as w
from mathutils import Quaternion


def write_clip(path, count, length=3):
    """A bumpy body that moves, of overlapping points of many colours."""
    splats = w.package("engine.render.splats").Splats
    rng = np.random.default_rng(5)
    frames = []
    for frame in range(min(length, 3)):
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        bumps = 0.42 + 0.06 * np.sin(7 * direction[:, :1] + frame) * np.cos(6 * direction[:, 1:2])
        frames.append(
            splats.from_colors(
                direction * bumps * [1, 1, 1.4],
                np.full(count, 0.006 * (100_000 / count) ** 0.5),
                rng.uniform(0.4, 1.0, count),
                0.5 + 0.5 * np.sin(5 * direction + [0, 2, 4]),
            )
        )
    settings = w.package("engine.render.settings").PeelSettings(layers=12)
    w.package("engine.clip.writer").write_clip(
        path,
        [frames[number % len(frames)] for number in range(length)],
        fps=25.0,
        settings=settings,
        provenance={"made_by": Path(__file__).name},
    )


def make_scene(clip):
    """The clip and the ring in an otherwise empty scene that Peel4D renders."""
    for one in list(bpy.data.objects):
        bpy.data.objects.remove(one)
    bpy.ops.import_scene.peel4d(filepath=str(clip), up="Z")
    bpy.ops.mesh.primitive_torus_add(
        major_radius=0.75, minor_radius=0.05, major_segments=96, minor_segments=16
    )
    material = bpy.data.materials.new("ring")
    material.diffuse_color = (0.9, 0.25, 0.02, 1.0)
    bpy.context.object.data.materials.append(material)
    bpy.context.object.select_set(False)
    scene = bpy.context.scene
    scene.render.engine = "PEEL4D"
    scene.view_settings.view_transform = "Standard"
    scene.peel4d.overlay = False
    scene.world.color = (0.02, 0.03, 0.05)


def one_viewport():
    """Steps; returns (area, region, space) of a viewport that fills the window."""
    _, area, _ = w.area_of()
    # Closing the others: screen_full_area out of a timer crashes 4.3.
    for other in [other for other in bpy.context.screen.areas if other != area]:
        with bpy.context.temp_override(area=other):
            bpy.ops.screen.area_close()
        yield 0.1
    _, area, _ = w.area_of()
    space = area.spaces.active
    space.show_region_header = space.show_region_toolbar = space.show_region_ui = False
    space.overlay.show_overlays = False
    space.show_gizmo = False
    yield 0.4
    view = space.region_3d
    view.view_perspective = "PERSP"
    view.view_location = (0, 0, 0)
    view.view_distance = 2.6
    view.view_rotation = Quaternion((0.85, 0.45, 0.12, 0.24)).normalized()
    yield 0.3
    return area, w.region_of(area), space


def orbit(space, seconds):
    """Steps that turn the view as often as Blender takes them."""
    turn = Quaternion((0, 0, 1), 0.03)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        space.region_3d.view_rotation = turn @ space.region_3d.view_rotation
        yield 0.004
