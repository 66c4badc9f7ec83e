# SPDX-License-Identifier: GPL-3.0-or-later
"""What a material mainly looks like, and whether things can be seen through it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import bpy
import numpy as np

#: What an object without a material looks like in Blender, linear.
DEFAULT_COLOR = (0.8, 0.8, 0.8)
#: A surface that lets more light through than this is clear.
_CLEAR = 0.5


class Opacity(Enum):
    """How a surface hides what is behind it."""

    SOLID = "everywhere"
    PARTLY = "in places: a texture or a mixture decides"
    CLEAR = "hardly: glass and transparent surfaces"
    NONE = "not at all: a volume without a surface"
    HOLDOUT = "everywhere, and it shows nothing itself"


@dataclass(frozen=True, eq=False)
class Appearance:
    """color: (3,) float32, display-referred sRGB."""

    color: np.ndarray
    opacity: Opacity


def appearance_of(material: bpy.types.Material | None) -> Appearance:
    linear = np.clip(_linear_color(material), 0.0, 1.0)
    low, high = linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055
    color = np.where(linear <= 0.0031308, low, high).astype(np.float32)
    return Appearance(color, opacity_of(material))


def opacity_of(material: bpy.types.Material | None) -> Opacity:
    output = _output(material)
    if output is None:
        return Opacity.SOLID
    shader = _source(output.inputs["Surface"])
    if shader is None:
        return Opacity.NONE if output.inputs["Volume"].is_linked else Opacity.SOLID
    return _opacity(shader)


def _opacity(shader: bpy.types.Node) -> Opacity:
    if shader.type in ("BSDF_TRANSPARENT", "BSDF_GLASS", "BSDF_REFRACTION"):
        return Opacity.CLEAR
    if shader.type == "HOLDOUT":
        return Opacity.HOLDOUT
    if shader.type == "BSDF_PRINCIPLED":
        through = [
            1.0 - _value(shader.inputs.get("Alpha"), 1.0),
            _value(shader.inputs.get("Transmission Weight"), 0.0),
        ]
        if np.isnan(through).any():
            return Opacity.PARTLY
        if max(through) > 0.0:
            return Opacity.CLEAR if max(through) > _CLEAR else Opacity.PARTLY
        return Opacity.SOLID
    if shader.type == "GROUP" and shader.node_tree is not None:
        outputs = [n for n in shader.node_tree.nodes if n.type == "GROUP_OUTPUT"]
        parts = [_source(s) for n in outputs if n.is_active_output for s in _shaders(n.inputs)]
    else:
        parts = [_source(socket) for socket in _shaders(shader.inputs)]
    kinds = {_opacity(part) for part in parts if part is not None}
    if len(kinds) > 1:
        return Opacity.PARTLY
    return kinds.pop() if kinds else Opacity.SOLID


def _linear_color(material: bpy.types.Material | None) -> np.ndarray:
    if material is None:
        return np.array(DEFAULT_COLOR)
    output = _output(material)
    shader = None if output is None else _source(output.inputs["Surface"])
    if shader is not None:
        base = shader.inputs.get("Base Color") or shader.inputs.get("Color")
        if base is not None and not base.is_linked:
            return np.array(base.default_value[:3])
    return np.array(material.diffuse_color[:3])


def _output(material: bpy.types.Material | None) -> bpy.types.Node | None:
    # Since Blender 5 every material uses nodes, and the property is to go.
    has_nodes = material is not None and getattr(material, "use_nodes", True)
    tree = material.node_tree if has_nodes else None
    for node in tree.nodes if tree is not None else ():
        if node.type == "OUTPUT_MATERIAL" and node.is_active_output:
            return node
    return None


def _source(socket: bpy.types.NodeSocket) -> bpy.types.Node | None:
    """The node that a socket is linked to, reroutes left out."""
    node = socket.links[0].from_node if socket.is_linked else None
    while node is not None and node.type == "REROUTE":
        node = node.inputs[0].links[0].from_node if node.inputs[0].is_linked else None
    return node


def _shaders(sockets: Iterable[bpy.types.NodeSocket]) -> list[bpy.types.NodeSocket]:
    return [socket for socket in sockets if socket.type == "SHADER"]


def _value(socket: bpy.types.NodeSocket | None, default: float) -> float:
    """Not a number where another node decides."""
    if socket is None:
        return default
    return float("nan") if socket.is_linked else float(socket.default_value)
