"""Procedural materials of the demo's room: wallpaper, planks, cloth, paper, plaster.

UV are in metres here, so a pattern has the same size on every piece of furniture. The light that
bounces between the walls is not traced while filming: it is baked once per vertex (`room_light`),
in the colour attribute `BOUNCE`, and every material gives it back.
"""

from __future__ import annotations

import bpy
from demo_materials import Color, Painter, Value, srgb

BOUNCE = "bounce"

PLASTER = srgb("#e6dccb")
SAGE = srgb("#b9c4ae")
WALLPAPER = (srgb("#5f7f86"), srgb("#86a3a4"), srgb("#e3d6b0"))
OAK = (srgb("#7a4a26"), srgb("#b98453"))
WALNUT = (srgb("#3d2313"), srgb("#7a4c2b"))
PINE = (srgb("#b98a55"), srgb("#dfb98a"))
WHITE = srgb("#efece4")
LINEN = srgb("#d8cdb8")
MUSTARD = srgb("#c88d2b")
RUST = srgb("#a3472c")
NIGHT = srgb("#23304f")
LEAF = (srgb("#1f4d25"), srgb("#5c8f3d"))
CLAY = srgb("#b5623d")


class RoomPainter(Painter):
    """A painter whose surfaces give back the baked light."""

    def glow(self, color: Color | Value) -> tuple[Color | Value, float]:
        return self.times(Value(self.tree, self._baked().outputs["Color"]), color), 1.0

    def close(self, closure: bpy.types.NodeSocket) -> bpy.types.Material:
        """Once light is baked (alpha 1), scattered rays see nothing: they would bring it again."""
        path = Value(
            self.tree, self.tree.nodes.new("ShaderNodeLightPath").outputs["Is Diffuse Ray"]
        )
        unseen = path * Value(self.tree, self._baked().outputs["Alpha"])
        surface = self.tree.nodes.new("ShaderNodeMixShader")
        self.tree.links.new(unseen.socket, surface.inputs[0])
        self.tree.links.new(closure, surface.inputs[1])
        return super().close(surface.outputs[0])

    def _baked(self) -> bpy.types.Node:
        attribute = self.tree.nodes.new("ShaderNodeVertexColor")
        attribute.layer_name = BOUNCE
        return attribute

    def times(self, first: Value, second: Color | Value) -> Value:
        """The product of two colours, or of a colour and a number."""
        node = self.tree.nodes.new("ShaderNodeMix")
        node.data_type, node.blend_type = "RGBA", "MULTIPLY"
        node.inputs[0].default_value = 1.0
        self._connect(first, node.inputs[6])
        self._connect(second, node.inputs[7])
        return Value(self.tree, node.outputs[2])

    def noise(self, u: Value, v: Value, detail: float = 2.0) -> Value:
        """Smooth noise around 0.5 over a plane, features of about 1 unit of (u, v)."""
        joined = self.tree.nodes.new("ShaderNodeCombineXYZ")
        self.tree.links.new(u.socket, joined.inputs[0])
        self.tree.links.new(v.socket, joined.inputs[1])
        node = self.tree.nodes.new("ShaderNodeTexNoise")
        node.noise_dimensions = "2D"
        node.inputs["Scale"].default_value = 1.0
        node.inputs["Detail"].default_value = detail
        self.tree.links.new(joined.outputs[0], node.inputs["Vector"])
        return Value(self.tree, node.outputs["Fac"])

    def shaded(self, color: Color | Value, amount: Value) -> Value:
        """A colour, times a number at every point."""
        return self.times(amount, color)


def plaster(name: str, color: Color) -> bpy.types.Material:
    """A painted wall: nearly plain, as walls are."""
    painter = RoomPainter(name)
    u, v = painter.uv()
    return painter.finish(painter.shaded(color, painter.noise(u * 3, v * 3) * 0.10 + 0.95))


def wallpaper(name: str, period: float = 0.34) -> bpy.types.Material:
    """Broad stripes with a row of pale ogees and dots along each second one."""
    painter = RoomPainter(name)
    ground, stripe, motif = WALLPAPER
    u, v = painter.uv()
    a, b = u * (1 / period), v * (1 / period)
    x, y = a.fract() - 0.5, b.fract() - 0.5
    band = x.abs() > 0.27
    line = (x.abs() - 0.27).abs() < 0.012
    # An ogee: a diamond with hollow flanks, and a flower of four petals in it.
    ogee = (x.abs() * 1.9 + (y.abs() * 1.1) - (x * x) * 2.0 - 0.40).abs() < 0.035
    petals = ((x * x + y * y).sqrt() - 0.055) < (x * y).abs() * 9.0 * ((x * x + y * y) < 0.02)
    leaf = (x * x * 5.0 + (y.abs() - 0.41) * (y.abs() - 0.41)) < 0.0035
    color = painter.mix(band, ground, stripe)
    for shape in (line, ogee, petals, leaf):
        color = painter.mix(shape, color, motif)
    paper = painter.noise(u * 60, v * 60) * 0.14 + painter.noise(u * 4, v * 4) * 0.08 + 0.89
    return painter.finish(painter.shaded(color, paper))


def wood(
    name: str, tones: tuple[Color, Color], *, plank: float = 0.0, gloss: float = 0.0
) -> bpy.types.Material:
    """Grain along v. plank: width of floor boards in metres, each cut from another tree."""
    painter = RoomPainter(name)
    u, v = painter.uv()
    seam = None
    tone = 0.0
    if plank:
        board = (u * (1 / plank)).floor()
        v = v + (board * 0.618).fract() * 1.7
        length = (v * (1 / 1.7)).floor()
        pick = ((board * 12.9898 + length * 78.233).sin() * 437.585).fract()
        u = u + pick * 31.0
        tone = pick * 0.5 - 0.25
        across, along = ((u - pick * 31.0) * (1 / plank)).fract(), (v * (1 / 1.7)).fract()
        seam = (across < 0.03) + (along < 0.004)
    warp = painter.noise(u * 6, v * 0.8)
    rings = ((u * 22 + warp * 9).sin() * 0.5 + 0.5) * 0.45
    fibre = painter.noise(u * 160, v * 5, 3.0) * 0.5
    color = painter.mix(rings + fibre + tone, *tones)
    if seam is not None:
        color = painter.shaded(color, seam * -0.6 + 1.0)
    return painter.finish(color, roughness=gloss, gloss=bool(gloss))


def cloth(name: str, color: Color, thread: float = 0.012) -> bpy.types.Material:
    """A coarse weave."""
    painter = RoomPainter(name)
    u, v = painter.uv()
    a, b = u * (1 / thread), v * (1 / thread)
    over = ((a * 3.14159).sin() * (b * 3.14159).sin()).abs()
    fleck = painter.noise(u * 90, v * 90)
    return painter.finish(painter.shaded(color, over * 0.18 + fleck * 0.45 + 0.68))


def striped_cloth(name: str, colors: tuple[Color, Color, Color], width: float):
    """A weave with broad and narrow stripes along u."""
    painter = RoomPainter(name)
    u, v = painter.uv()
    x = (v * (1 / width)).fract()
    color = painter.mix((x - 0.75).abs() < 0.06, painter.mix(x > 0.5, *colors[:2]), colors[2])
    return painter.finish(painter.shaded(color, painter.noise(u * 120, v * 120) * 0.4 + 0.8))


def rug(name: str, size: tuple[float, float]) -> bpy.types.Material:
    """Borders, a field of diamonds and a medallion; u, v in metres from a corner."""
    painter = RoomPainter(name)
    u, v = painter.uv()
    x, y = (u - size[0] / 2).abs(), (v - size[1] / 2).abs()
    a, b = (u * 6.0).fract() - 0.5, (v * 6.0).fract() - 0.5
    diamond = a.abs() + b.abs()
    field = painter.mix(diamond < 0.33, RUST, painter.mix(diamond < 0.15, LINEN, NIGHT))
    reach = x * (1 / 0.75) + y * (1 / 0.55)
    medallion = painter.mix((reach * 4.0).fract() > 0.5, NIGHT, MUSTARD)
    color = painter.mix(reach < 1.0, field, medallion)
    inset = painter.tree.nodes.new("ShaderNodeMath")
    inset.operation = "MINIMUM"
    painter.tree.links.new((x * -1.0 + size[0] / 2).socket, inset.inputs[0])
    painter.tree.links.new((y * -1.0 + size[1] / 2).socket, inset.inputs[1])
    edge = Value(painter.tree, inset.outputs[0])
    teeth = ((u * 9.0 + v * 9.0).fract() - 0.5).abs() < 0.22
    border = painter.mix(teeth, NIGHT, LINEN)
    color = painter.mix(edge < 0.20, color, border)
    color = painter.mix((edge - 0.20).abs() < 0.014, color, MUSTARD)
    color = painter.mix(edge < 0.06, color, RUST)
    pile = painter.noise(u * 140, v * 140) * 0.5 + painter.noise(u * 9, v * 9) * 0.2 + 0.65
    return painter.finish(painter.shaded(color, pile))


def spine(name: str, color: Color, accent: Color) -> bpy.types.Material:
    """The back of a book: two bands and a block that looks like a title (v is its height)."""
    painter = RoomPainter(name)
    u, v = painter.uv()
    bands = ((v - 0.025).abs() < 0.006) + ((v - 0.17).abs() < 0.004)
    letters = ((v - 0.11).abs() < 0.04) * (painter.noise(u * 150, v * 260, 0.0) > 0.5)
    worn = painter.noise(u * 40, v * 40) * 0.3 + 0.85
    return painter.finish(painter.shaded(painter.mix(bands + letters, color, accent), worn))


def landscape(name: str, size: tuple[float, float]) -> bpy.types.Material:
    """A painting: a sun over three ranges of hills, in visible strokes."""
    painter = RoomPainter(name)
    u, v = painter.uv()
    x, y = u * (1 / size[0]), v * (1 / size[1])
    stroke = painter.noise(x * 26, y * 70, 3.0)
    sky = painter.mix(y * 1.4 - 0.5 + stroke * 0.3, srgb("#f3b46a"), srgb("#5d8fb8"))
    sx, sy = (x - 0.68) * (size[0] / size[1]), y - 0.72
    color = painter.mix((sx * sx + sy * sy) < 0.012, sky, srgb("#fdf0c8"))
    ranges = ((0.52, 2.2, "#7a7fa0"), (0.38, 3.4, "#4f7460"), (0.22, 5.0, "#2c4a2f"))
    for height, wave, tone in ranges:
        crest = painter.noise(x * wave + wave, y * 0.0 + wave, 2.0) * 0.5 + (height - 0.22)
        hill = painter.shaded(srgb(tone), stroke * 1.1 + 0.45)
        color = painter.mix(y < crest, color, hill)
    return painter.finish(color)


def leaf(name: str) -> bpy.types.Material:
    """Green with a pale midrib (u around, v along, both in [0, 1])."""
    painter = RoomPainter(name)
    u, v = painter.uv()
    side = ((u - 0.25).abs() - 0.25).abs()
    veins = ((v * 14.0 + side * 6.0).fract() - 0.5).abs() > 0.42
    color = painter.mix(painter.noise(u * 6, v * 9), *LEAF)
    return painter.finish(painter.mix(veins, color, LEAF[1]))


def glaze(name: str, color: Color, accent: Color, bands: float) -> bpy.types.Material:
    """Glazed pottery with a zigzag band (u around, v along, both in [0, 1])."""
    painter = RoomPainter(name)
    u, v = painter.uv()
    zigzag = (v * 5.0 - 2.5 + ((u * bands).fract() - 0.5).abs() * 1.4 - 0.35).abs() < 0.22
    return painter.finish(painter.mix(zigzag, color, accent), roughness=0.3, gloss=True)


def plain(name: str, color: Color, gloss: float = 0.0) -> bpy.types.Material:
    """One colour, matte or with a roughness."""
    return RoomPainter(name).finish(color, roughness=gloss, gloss=bool(gloss))


def lit(name: str, low: Color, high: Color) -> bpy.types.Material:
    """Something that shines by itself, from `low` (v = 0) to `high` (v = 1)."""
    painter = RoomPainter(name)
    _, v = painter.uv()
    glow = painter.tree.nodes.new("ShaderNodeEmission")
    painter.tree.links.new(painter.mix(v, low, high).socket, glow.inputs["Color"])
    return painter.close(glow.outputs[0])
