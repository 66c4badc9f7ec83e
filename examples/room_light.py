"""Light in the demo's room: a sun and a window that are traced, and everything else baked.

Tracing what bounces between walls would cost many samples per picture. That light hardly depends on
the bird, so it is computed once per vertex and given back by the materials; the sun and the window
are traced for every picture, and the bird casts its moving shadow in both.
"""

from __future__ import annotations

import math

import bpy
import numpy as np
from demo_studio import undisturbed
from demo_workshop import Workshop
from mathutils import Vector
from room_materials import BOUNCE

SUN_DIRECTION = (1.0, -0.12, -0.72)
SUN_ENERGY = 13.0
WINDOW_WATTS = 75.0
FRONT_WATTS = 60.0
LAMP_WATTS = 8.0


def light_room(shop: Workshop, samples: int) -> None:
    """Put the lights into the shop's collection and bake the light that pictures do not trace."""
    bpy.context.scene.world = _day()
    sun = _light("sun", "SUN", SUN_ENERGY, (1.0, 0.88, 0.70), SUN_DIRECTION)
    sun.data.angle = math.radians(1.5)
    window = _area("sky", WINDOW_WATTS, (0.86, 0.93, 1.0), (1, 0, -0.25), (1.4, 1.25))
    window.location = (-2.5, 0.0, 1.52)
    traced = [sun, window]
    front = _area("front", FRONT_WATTS, (1.0, 0.95, 0.88), (0, 1, 0.1), (4.0, 2.2))
    front.location = (0.3, -3.5, 1.5)
    lamp = _light("bulb", "POINT", LAMP_WATTS, (1.0, 0.68, 0.38), (0, 0, -1))
    lamp.data.shadow_soft_size = 0.08
    lamp.location = (2.12, 1.09, 1.05)
    baked = [front, lamp]

    for light in traced + baked:
        shop.collection.objects.link(light)
    shade = shop.parts["shade"]
    shade.visible_shadow = shade.visible_diffuse = False
    room = _joined([part for part in shop.parts.values() if part is not shade])
    bounced = _bake(room, {"INDIRECT"}, samples)
    for light in traced:
        light.hide_render = True
    direct = _bake(room, {"DIRECT"}, samples)
    for light in traced:
        light.hide_render = False
    for light in baked:
        bpy.data.objects.remove(light)
    _store(room.data, _smoothed(room.data, bounced + direct), 1.0)


def _day() -> bpy.types.World:
    """What cameras see through the window; it lights nothing, an area light in it does."""
    world = bpy.data.worlds.new("day")
    world.cycles.sampling_method = "NONE"
    world.use_nodes = True
    tree = world.node_tree
    sky = tree.nodes["Background"]
    sky.inputs["Color"].default_value = (0.80, 0.90, 1.0, 1.0)
    path = tree.nodes.new("ShaderNodeLightPath")
    tree.links.new(path.outputs["Is Camera Ray"], sky.inputs["Strength"])
    return world


def _joined(parts: list[bpy.types.Object]) -> bpy.types.Object:
    """One object of many, because Blender prepares the scene anew for each that it bakes."""
    for part in parts:
        part.select_set(True)
    bpy.context.view_layer.objects.active = parts[0]
    bpy.ops.object.join()
    return parts[0]


def _light(name, kind, watts, color, direction) -> bpy.types.Object:
    data = bpy.data.lights.new(name, kind)
    data.energy, data.color = watts, color
    light = bpy.data.objects.new(name, data)
    light.rotation_euler = Vector(direction).to_track_quat("-Z", "Y").to_euler()
    light.visible_camera = False
    return light


def _area(name, watts, color, direction, size) -> bpy.types.Object:
    light = _light(name, "AREA", watts, color, direction)
    light.data.shape = "RECTANGLE"
    light.data.size, light.data.size_y = size
    return light


def _bake(room: bpy.types.Object, light: set[str], samples: int) -> np.ndarray:
    """Irradiance / pi that reaches every vertex, (v, 3)."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = samples
    scene.cycles.seed = 0
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.max_bounces = scene.cycles.diffuse_bounces = 4
    attributes = room.data.color_attributes
    if BOUNCE not in attributes:
        attributes.new(BOUNCE, "FLOAT_COLOR", "POINT")
    attributes.active_color = attributes[BOUNCE]
    _store(room.data, np.zeros((len(room.data.vertices), 3)), 0.0)
    with undisturbed():
        bpy.ops.object.bake(type="DIFFUSE", pass_filter=light, target="VERTEX_COLORS")
    color = np.empty(len(room.data.vertices) * 4, np.float32)
    attributes[BOUNCE].data.foreach_get("color", color)
    return color.reshape(-1, 4)[:, :3]


def _store(mesh: bpy.types.Mesh, light: np.ndarray, alpha: float) -> None:
    color = np.concatenate([light, np.full((len(light), 1), alpha)], axis=1)
    mesh.color_attributes[BOUNCE].data.foreach_set("color", color.astype(np.float32).ravel())
    mesh.update()


def _smoothed(mesh: bpy.types.Mesh, light: np.ndarray) -> np.ndarray:
    """Light (v, 3), averaged twice with that of the neighbouring vertices."""
    edges = np.empty(len(mesh.edges) * 2, np.int32)
    mesh.edges.foreach_get("vertices", edges)
    a, b = edges.reshape(-1, 2).T
    count = 1 + np.bincount(np.concatenate([a, b]), minlength=len(light))
    for _ in range(2):
        total = light.copy()
        np.add.at(total, a, light[b])
        np.add.at(total, b, light[a])
        light = total / count[:, None]
    return light
