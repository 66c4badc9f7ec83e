"""The demo's light: few and broad sources, so that a handful of samples per pixel is enough."""

from __future__ import annotations

import math

import bpy
from demo_materials import Value
from mathutils import Vector

SUN_ENERGY = 2.5
SUN_DIRECTION = (0.45, 0.65, -0.95)
# Radiance of the sky by height of the direction: straight down, horizon, zenith.
SKY_STOPS = (
    (0.0, (0.13, 0.10, 0.13)),
    (0.5, (0.24, 0.23, 0.26)),
    (1.0, (0.50, 0.56, 0.64)),
)
WINDOW_RADIANCE = 2.2


def light_scene(collection: bpy.types.Collection) -> None:
    """Add a sun to the collection and give the current scene a sky."""
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy = SUN_ENERGY
    sun.angle = math.radians(3)
    sun.color = (1.0, 0.93, 0.82)
    lamp = bpy.data.objects.new("sun", sun)
    lamp.rotation_euler = Vector(SUN_DIRECTION).to_track_quat("-Z", "Y").to_euler()
    collection.objects.link(lamp)
    bpy.context.scene.world = _sky()


def _sky() -> bpy.types.World:
    """A soft gradient; glossy surfaces see four bright windows in it besides.

    Scattered rays alone meet the sky and shadow rays alone meet the sun: nothing is left to the
    chance of which light a sample picks. The windows would be noise on matte paint, so only glossy
    rays see them.
    """
    world = bpy.data.worlds.new("sky")
    world.cycles.sampling_method = "NONE"
    world.use_nodes = True
    tree = world.node_tree
    tree.nodes.clear()
    coordinates = tree.nodes.new("ShaderNodeTexCoord")
    split = tree.nodes.new("ShaderNodeSeparateXYZ")
    tree.links.new(coordinates.outputs["Generated"], split.inputs[0])
    x, y, z = (Value(tree, socket) for socket in split.outputs)

    ramp = tree.nodes.new("ShaderNodeValToRGB")
    tree.links.new((z * 0.5 + 0.5).socket, ramp.inputs[0])
    ramp.color_ramp.elements.new(0.5)
    for stop, (position, color) in zip(ramp.color_ramp.elements, SKY_STOPS, strict=True):
        stop.position, stop.color = position, (*color, 1)

    # Each window is a rectangle around a diagonal of the horizontal plane, |x| = |y|.
    upright = ((x.abs() - y.abs()).abs() < 0.26) * (z > 0.22) * (z < 0.72)
    path = tree.nodes.new("ShaderNodeLightPath")
    glossy = Value(tree, path.outputs["Is Glossy Ray"])

    sky = tree.nodes.new("ShaderNodeBackground")
    tree.links.new(ramp.outputs[0], sky.inputs[0])
    window = tree.nodes.new("ShaderNodeBackground")
    window.inputs[0].default_value = (1.0, 0.96, 0.9, 1)
    tree.links.new((upright * glossy * WINDOW_RADIANCE).socket, window.inputs[1])
    both = tree.nodes.new("ShaderNodeAddShader")
    tree.links.new(sky.outputs[0], both.inputs[0])
    tree.links.new(window.outputs[0], both.inputs[1])
    output = tree.nodes.new("ShaderNodeOutputWorld")
    tree.links.new(both.outputs[0], output.inputs[0])
    return world
