# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of the depth peel, as Blender's graphics device is told about them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...engine.errors import CoreError
from .gl_shaders import (
    CLIP,
    COMPOSITE,
    COVERAGE,
    LAYERS_PER_BATCH,
    LIMIT,
    MESH_FRAGMENT,
    MESH_VERTEX,
    PEEL_FRAGMENT,
    PEEL_VERTEX,
    PROJECT,
    RECTANGLE,
    RESOLVE,
    SHOW,
    SHOW_VERTEX,
)


@dataclass
class _Program:
    """What `gpu.types.GPUShaderCreateInfo` is told. Each list entry: arguments of one call."""

    vertex: str
    fragment: str
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, str]]
    samplers: list[tuple[str, str]] = field(default_factory=list)
    constants: list[tuple[str, str]] = field(default_factory=list)
    passed: list[tuple[str, str, str]] = field(default_factory=list)
    writes_depth: bool = False
    types: str = ""
    blocks: list[tuple[str, str]] = field(default_factory=list)


_CORNER = [("VEC2", "corner")]
_PROGRAMS = {
    "project": _Program(
        RECTANGLE,
        PROJECT,
        _CORNER,
        [("VEC4", "place"), ("VEC2", "axes"), ("VEC4", "color")],
        samplers=[("FLOAT_2D", "points"), ("FLOAT_2D", "look")],
        types=CLIP,
        blocks=[("Peel4DClip", "clip")],
    ),
    "peel": _Program(
        PEEL_VERTEX,
        PEEL_FRAGMENT,
        [("VEC3", "corner")],
        [("VEC4", "layer"), ("FLOAT", "index")],
        samplers=[
            ("FLOAT_2D", "place"),
            ("FLOAT_2D", "axes"),
            ("FLOAT_2D", "color"),
            ("DEPTH_2D", "before"),
            ("FLOAT_2D", "before_index"),
            ("DEPTH_2D", "limit"),
            ("FLOAT_2D", "total"),
        ],
        constants=[("VEC2", "size"), ("FLOAT", "min_transmittance"), ("INT", "first")],
        passed=[("flat", "VEC4", "disk"), ("flat", "VEC4", "tint"), ("flat", "VEC2", "key")],
        writes_depth=True,
    ),
    "composite": _Program(
        RECTANGLE,
        COMPOSITE,
        _CORNER,
        [("VEC4", "result")],
        samplers=[("FLOAT_2D", "total")]
        + [("FLOAT_2D", f"layer{k}") for k in range(LAYERS_PER_BATCH)],
        constants=[("INT", "count"), ("FLOAT", "min_transmittance")],
    ),
    "coverage": _Program(
        RECTANGLE, COVERAGE, _CORNER, [("VEC4", "result")], samplers=[("FLOAT_2D", "layer")]
    ),
    "limit": _Program(
        RECTANGLE,
        LIMIT,
        _CORNER,
        [("VEC4", "result")],
        samplers=[("FLOAT_2D", "scene")],
        constants=[
            ("VEC4", "rows"),
            ("VEC2", "size"),
            ("FLOAT", "depth_scale"),
            ("FLOAT", "shift"),
        ],
        writes_depth=True,
    ),
    "mesh": _Program(
        MESH_VERTEX,
        MESH_FRAGMENT,
        [("VEC3", "position"), ("VEC4", "color")],
        [("VEC4", "result")],
        constants=[("MAT4", "projection"), ("VEC4", "forward"), ("FLOAT", "depth_scale")],
        passed=[("smooth", "VEC4", "tint"), ("smooth", "FLOAT", "z")],
        writes_depth=True,
    ),
    "resolve": _Program(
        RECTANGLE,
        RESOLVE,
        _CORNER,
        [("VEC4", "result")],
        samplers=[("FLOAT_2D", "total"), ("FLOAT_2D", "mesh")],
        constants=[("MAT4", "to_scene"), ("INT", "linear")],
    ),
    "show": _Program(
        SHOW_VERTEX,
        SHOW,
        _CORNER,
        [("VEC4", "result")],
        samplers=[("FLOAT_2D", "picture"), ("FLOAT_2D", "scene"), ("FLOAT_2D", "backdrop")],
        constants=[("INT", "encoded"), ("INT", "interpolate")],
        passed=[("smooth", "VEC2", "uv")],
    ),
}


def create(name: str):
    """The gpu.types.GPUShader `name` of `_PROGRAMS`.

    Raises CoreError where Blender's version cannot let Metal write depths.
    """
    import gpu

    program = _PROGRAMS[name]
    info = gpu.types.GPUShaderCreateInfo()
    if program.types:
        info.typedef_source(program.types)
    for slot, (kind, text) in enumerate(program.blocks):
        info.uniform_buf(slot, kind, text)
    for kind, text in program.constants:
        info.push_constant(kind, text)
    for slot, (kind, text) in enumerate(program.samplers):
        info.sampler(slot, kind, text)
    for slot, (kind, text) in enumerate(program.inputs):
        info.vertex_in(slot, kind, text)
    interface = None
    if program.passed:
        interface = gpu.types.GPUStageInterfaceInfo(f"peel4d_{name}")
        for how, kind, text in program.passed:
            getattr(interface, how)(kind, text)
        info.vertex_out(interface)
    for slot, (kind, text) in enumerate(program.outputs):
        info.fragment_out(slot, kind, text)
    if program.writes_depth:
        if hasattr(info, "depth_write"):
            info.depth_write("ANY")
        elif gpu.platform.backend_type_get() != "OPENGL":  # OpenGL needs no declaration
            raise CoreError(
                "Blender cannot peel on this graphics device before version 4.4",
                hint="Choose another viewport device, or a newer Blender",
            )
    info.vertex_source(program.vertex)
    info.fragment_source(program.fragment)
    return gpu.shader.create_from_info(info)
