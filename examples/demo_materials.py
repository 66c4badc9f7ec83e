"""Procedural materials of the demo scene: painted patterns, lacquer and brass.

Patterns are written as arithmetic on the UV coordinates of `demo_shapes.face_corner_uv`; the small
`Value` class turns that arithmetic into shader nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy

Color = tuple[float, float, float]


def srgb(code: str) -> Color:
    """'#rrggbb' as people pick colours -> scene-linear RGB."""
    values = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return tuple(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)


CREAM = srgb("#f6e7c4")
IVORY = srgb("#fbf4e2")
TEAL = srgb("#0e8f93")
DEEP_TEAL = srgb("#0a5a6b")
TURQUOISE = srgb("#35c3b7")
CORAL = srgb("#ee5a47")
CRIMSON = srgb("#b9243a")
MARIGOLD = srgb("#f6a821")
LEMON = srgb("#fbd34d")
PLUM = srgb("#5b2a6e")
NAVY = srgb("#1c2b5a")
BRASS = srgb("#e0a63c")
INK = srgb("#0b0b12")


# Light that reaches every point alike, as a share of its own colour. It stands for the light that
# bounces between the parts, which would cost samples and leave noise.
FILL_LIGHT = 0.22


@dataclass(frozen=True)
class Value:
    """A number at every shading point: a socket of a node tree, or nodes made on demand."""

    tree: bpy.types.ShaderNodeTree
    socket: bpy.types.NodeSocket

    def _math(self, operation: str, *others: Value | float) -> Value:
        node = self.tree.nodes.new("ShaderNodeMath")
        node.operation = operation
        for index, operand in enumerate((self, *others)):
            if isinstance(operand, Value):
                self.tree.links.new(operand.socket, node.inputs[index])
            else:
                node.inputs[index].default_value = operand
        return Value(self.tree, node.outputs[0])

    def __add__(self, other: Value | float) -> Value:
        return self._math("ADD", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._math("SUBTRACT", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._math("MULTIPLY", other)

    def __lt__(self, other: Value | float) -> Value:
        return self._math("LESS_THAN", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._math("GREATER_THAN", other)

    def floor(self) -> Value:
        return self._math("FLOOR")

    def fract(self) -> Value:
        return self._math("FRACT")

    def abs(self) -> Value:
        return self._math("ABSOLUTE")

    def sqrt(self) -> Value:
        return self._math("SQRT")

    def sin(self) -> Value:
        return self._math("SINE")

    def odd(self) -> Value:
        """1 where the (integer) value is odd, else 0."""
        return (self * 0.5).fract() > 0.25


class Painter:
    """One material under construction: coordinates in, a colour per shading point out."""

    def __init__(self, name: str):
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.tree.nodes.clear()
        self._uv = None

    def uv(self) -> tuple[Value, Value]:
        """u around and v along the surface, both in [0, 1]."""
        if self._uv is None:
            source = self.tree.nodes.new("ShaderNodeUVMap")
            split = self.tree.nodes.new("ShaderNodeSeparateXYZ")
            self.tree.links.new(source.outputs["UV"], split.inputs[0])
            self._uv = (Value(self.tree, split.outputs[0]), Value(self.tree, split.outputs[1]))
        return self._uv

    def mix(self, factor: Value, low: Color | Value, high: Color | Value) -> Value:
        """`low` where the factor is 0, `high` where it is 1."""
        node = self.tree.nodes.new("ShaderNodeMix")
        node.data_type = "RGBA"
        self.tree.links.new(factor.socket, node.inputs[0])
        self._connect(low, node.inputs[6])
        self._connect(high, node.inputs[7])
        return Value(self.tree, node.outputs[2])

    def glow(self, color: Color | Value) -> tuple[Color | Value, float]:
        """Colour and strength of the light that stands for what bounces between the parts."""
        return color, FILL_LIGHT

    def finish(
        self,
        color: Color | Value,
        *,
        roughness: float = 1.0,
        metallic: float = 0.0,
        gloss: bool = False,
    ) -> bpy.types.Material:
        """Close the tree. Matte paint is a plain diffuse surface (it renders with little noise)."""
        glow_color, strength = self.glow(color)
        if gloss:
            surface = closure = self.tree.nodes.new("ShaderNodeBsdfPrincipled")
            surface.inputs["Roughness"].default_value = roughness
            surface.inputs["Metallic"].default_value = metallic
            surface.inputs["Specular IOR Level"].default_value = 0.35
            self._connect(color, surface.inputs["Base Color"])
            if not metallic:
                surface.inputs["Emission Strength"].default_value = strength
                self._connect(glow_color, surface.inputs["Emission Color"])
        else:
            surface = self.tree.nodes.new("ShaderNodeBsdfDiffuse")
            glow = self.tree.nodes.new("ShaderNodeEmission")
            glow.inputs["Strength"].default_value = strength
            closure = self.tree.nodes.new("ShaderNodeAddShader")
            self.tree.links.new(surface.outputs[0], closure.inputs[0])
            self.tree.links.new(glow.outputs[0], closure.inputs[1])
            self._connect(color, surface.inputs["Color"])
            self._connect(glow_color, glow.inputs["Color"])
        return self.close(closure.outputs[0])

    def close(self, closure: bpy.types.NodeSocket) -> bpy.types.Material:
        """Make a closure the material's surface."""
        output = self.tree.nodes.new("ShaderNodeOutputMaterial")
        self.tree.links.new(closure, output.inputs[0])
        # Without this Cycles would treat every part as a lamp and sample it as one.
        self.material.cycles.emission_sampling = "NONE"
        return self.material

    def _connect(self, value: Color | Value, target: bpy.types.NodeSocket) -> None:
        if isinstance(value, Value):
            self.tree.links.new(value.socket, target)
        else:
            target.default_value = (*value, 1.0)


def plain(name: str, color: Color) -> bpy.types.Material:
    """One matte colour."""
    return Painter(name).finish(color)


def lacquer(name: str, color: Color, roughness: float = 0.12) -> bpy.types.Material:
    """One glossy colour."""
    return Painter(name).finish(color, roughness=roughness, gloss=True)


def brass() -> bpy.types.Material:
    """Polished metal."""
    return Painter("brass").finish(BRASS, roughness=0.22, metallic=1.0, gloss=True)


def stripes(name: str, colors: tuple[Color, Color], count: float) -> bpy.types.Material:
    """Bands across the length of a part, `count` pairs."""
    painter = Painter(name)
    _, v = painter.uv()
    return painter.finish(painter.mix((v * count).fract() > 0.5, *colors))


def barber(name: str, colors: tuple[Color, Color], count: int, twist: int) -> bpy.types.Material:
    """Bands that wind around a part: `count` along it, `twist` around it."""
    painter = Painter(name)
    u, v = painter.uv()
    return painter.finish(painter.mix((v * count + u * twist).fract() > 0.5, *colors))


def harlequin(name: str, colors: tuple[Color, Color], around: int) -> bpy.types.Material:
    """One row of diamonds around a drum, each with a dot of the other colour in its middle."""
    painter = Painter(name)
    u, v = painter.uv()
    a, b = u * around, v
    diamond = ((a.fract() - 0.5).abs() + (b - 0.5).abs()) < 0.5
    x, y = (a.fract() - 0.5) * 1.4, b - 0.5
    dot = (x * x + y * y) < 0.02
    return painter.finish(painter.mix(dot, painter.mix(diamond, *colors), MARIGOLD))


def petals(name: str, count: int) -> bpy.types.Material:
    """A flower on a ring-shaped plate: v runs from the rim inwards."""
    painter = Painter(name)
    u, v = painter.uv()
    across = ((u * count).fract() - 0.5).abs()
    outline = (v * 3.14159).sin() * 0.46
    inner = (v * 3.14159).sin() * 0.24
    alternate = painter.mix((u * count).floor().odd(), CORAL, MARIGOLD)
    return painter.finish(
        painter.mix(across < inner, painter.mix(across < outline, IVORY, alternate), CRIMSON)
    )


def plumage(name: str, around: int, rows: int) -> bpy.types.Material:
    """Two-tone scalloped feathers on the back, a cream belly with dots (u = 0.25 points down)."""
    painter = Painter(name)
    u, v = painter.uv()
    row = (v * rows).floor()
    x = (u * around + row.odd() * 0.5).fract() - 0.5
    y = (v * rows).fract()
    # Each feather is an ellipse that hangs from the upper edge of its row (towards the head).
    reach = (x * x * 4.0 + (y - 1.0) * (y - 1.0)).sqrt()
    vane = painter.mix(reach > 0.68, TEAL, TURQUOISE)
    scale = painter.mix(reach > 1.0, vane, DEEP_TEAL)
    dot = painter.mix((x * x + (y - 0.5) * (y - 0.5)) < 0.06, CREAM, CORAL)
    belly = (u - 0.25).abs() < (v * 3.14159).sin() * 0.14
    return painter.finish(painter.mix(belly, scale, dot))


def crown(name: str, points: int) -> bpy.types.Material:
    """A turquoise face under a deep teal cap with a scalloped, golden hem (v = 1 is the top)."""
    painter = Painter(name)
    u, v = painter.uv()
    hem = ((u * points).fract() - 0.5).abs() * 0.14 + 0.70
    face = painter.mix(v > hem - 0.035, TURQUOISE, LEMON)
    return painter.finish(painter.mix(v > hem, face, DEEP_TEAL))


def feather(name: str, colors: tuple[Color, Color, Color]) -> bpy.types.Material:
    """A quill feather: base colour, two bands, coloured tip."""
    painter = Painter(name)
    _, v = painter.uv()
    base, band, tip = colors
    bands = painter.mix((v * 3.0).fract() > 0.6, base, band)
    return painter.finish(painter.mix(v > 0.8, bands, tip))
