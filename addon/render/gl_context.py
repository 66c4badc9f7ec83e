# SPDX-License-Identifier: GPL-3.0-or-later
"""What pictures share on the graphics device: programs, batches, and Blender's drawing state."""

from __future__ import annotations

import math

import numpy as np

from .gl_programs import create
from .gl_shaders import POINTS_PER_INSTANCE

#: Programs and batches by name; made when they are needed for the first time.
_MADE: dict[str, object] = {}


def program(name: str):
    """A gpu.types.GPUShader, see `gl_programs.create`."""
    if name not in _MADE:
        _MADE[name] = create(name)
    return _MADE[name]


def batch(name: str):
    """ "rectangle": the whole viewport. "points": triangles around POINTS_PER_INSTANCE circles."""
    import gpu

    key = f"batch {name}"
    if key not in _MADE:
        if name == "rectangle":
            corners = np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)], np.float32)
            kind = "TRI_STRIP"
        else:
            side = math.sqrt(3)
            triangle = np.array([(0, 2, 0), (-side, -1, 0), (side, -1, 0)], np.float32)
            corners = np.tile(triangle, (POINTS_PER_INSTANCE, 1))
            corners[:, 2] = np.repeat(np.arange(POINTS_PER_INSTANCE), 3)
            kind = "TRIS"
        layout = gpu.types.GPUVertFormat()
        layout.attr_add(id="corner", comp_type="F32", len=corners.shape[1], fetch_mode="FLOAT")
        buffer = gpu.types.GPUVertBuf(layout, len(corners))
        buffer.attr_fill("corner", corners)
        _MADE[key] = gpu.types.GPUBatch(type=kind, buf=buffer)
    return _MADE[key]


def release_programs() -> None:
    """Free them."""
    _MADE.clear()


class DrawState:
    """Restores Blender's drawing state behind its block."""

    def __enter__(self) -> None:
        import gpu

        state = gpu.state
        self._was = (state.blend_get(), state.depth_test_get(), state.depth_mask_get())

    def __exit__(self, *exc: object) -> None:
        import gpu

        gpu.state.blend_set(self._was[0])
        gpu.state.depth_test_set(self._was[1])
        gpu.state.depth_mask_set(self._was[2])


def read_color(buffer, width: int, height: int, x: int = 0) -> np.ndarray:
    """(H, W, 4) float32 of a framebuffer's first attachment, from column x on, row 0 = bottom."""
    import gpu

    pixels = np.empty((height, width, 4), np.float32)
    data = gpu.types.Buffer("FLOAT", pixels.size, pixels.reshape(-1))
    buffer.read_color(x, 0, width, height, 4, 0, "FLOAT", data=data)
    return pixels
