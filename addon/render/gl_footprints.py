# SPDX-License-Identifier: GPL-3.0-or-later
"""Points projected by a camera, before they are peeled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...engine.render.backend import Instance
from ...engine.render.camera import Camera
from ...engine.render.core import PlacedClip
from ...engine.render.settings import PeelSettings
from .gl_context import batch, program
from .gl_shaders import TABLE_WIDTH
from .gl_upload import UploadedPoints


class Footprints:
    """All points of a picture, projected: place (u, v, depth, weight), axes (a', b'), colour.

    Every clip begins a row, so rows end with texels of weight 0.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._textures: tuple = ()
        self._buffer = None

    def project(
        self,
        clips: Sequence[PlacedClip],
        uploads: Sequence[UploadedPoints],
        view: Camera,
        settings: PeelSettings,
        stride: int,
    ) -> int:
        """Fill the textures; the number of texels that are in use, from the first."""
        import gpu

        counts = [-(-upload.count // stride) for upload in uploads]
        rows = [-(-count // TABLE_WIDTH) for count in counts]
        if sum(rows) == 0:
            return 0
        self._reserve(sum(rows))
        gpu.state.blend_set("NONE")
        gpu.state.depth_test_set("NONE")
        gpu.state.depth_mask_set(False)
        first = used = 0
        with self._buffer.bind():
            shader = program("project")
            shader.bind()
            for clip, upload, count, height in zip(clips, uploads, counts, rows, strict=True):
                if count == 0:
                    continue
                block = clip_block(clip, upload, view, settings, stride, first)
                buffer = gpu.types.GPUUniformBuf(gpu.types.Buffer("FLOAT", block.size, block))
                gpu.state.viewport_set(0, first, TABLE_WIDTH, height)
                shader.uniform_sampler("points", upload.points)
                shader.uniform_sampler("look", upload.look)
                shader.uniform_block("clip", buffer)
                batch("rectangle").draw(shader)
                used = first * TABLE_WIDTH + count
                first += height
        return used

    def use(self, shader) -> None:
        for name, texture in zip(("place", "axes", "color"), self._textures, strict=True):
            shader.uniform_sampler(name, texture)

    def _reserve(self, rows: int) -> None:
        from gpu.types import GPUFrameBuffer, GPUTexture

        if self._rows >= rows:
            return
        size = (TABLE_WIDTH, rows)
        forms = ("RGBA32F", "RG32F", "RGBA16F")
        self._textures = tuple(GPUTexture(size, format=form) for form in forms)
        self._buffer = GPUFrameBuffer(color_slots=self._textures)
        self._rows = rows


def clip_block(
    clip: PlacedClip,
    upload: UploadedPoints,
    view: Camera,
    settings: PeelSettings,
    stride: int,
    first_row: int,
) -> np.ndarray:
    """What the program "project" is told about a clip, flat float32; see `gl_shaders`."""
    linear = view.R @ clip.matrix[:3, :3]
    shift = view.R @ clip.matrix[:3, 3] + view.t
    K = view.K
    block = [
        (*linear[0], shift[0]),
        (*linear[1], shift[1]),
        (*linear[2], shift[2]),
        (*clip.eye, clip.radius_scale),
        (K[0, 0], -K[1, 1], K[0, 2], view.height - K[1, 2]),
        (view.near, view.far, K[0, 1], settings.min_radius_px),
        (depth_scale(view), clip.opacity, float(view.orthographic), 0.0),
        (upload.count, stride, upload.harmonics, first_row),
    ]
    return np.array(block, np.float32).ravel()


def projection(view: Camera) -> np.ndarray:
    """(4, 4): world -> OpenGL's clip space, for triangles."""
    K, near, far = view.K, view.near, view.far
    half = np.array([2 / view.width, 2 / view.height])
    if view.orthographic:
        depth, last = (2 / (far - near), -(far + near) / (far - near)), (0.0, 1.0)
        columns = [(0.0, half[0] * K[0, 2] - 1), (0.0, 1 - half[1] * K[1, 2])]
    else:
        depth, last = ((far + near) / (far - near), -2 * far * near / (far - near)), (1.0, 0.0)
        columns = [(half[0] * K[0, 2] - 1, 0.0), (1 - half[1] * K[1, 2], 0.0)]
    lens = np.array(
        [
            (half[0] * K[0, 0], half[0] * K[0, 1], *columns[0]),
            (0.0, -half[1] * K[1, 1], *columns[1]),
            (0.0, 0.0, *depth),
            (0.0, 0.0, *last),
        ]
    )
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = view.R, view.t
    return lens @ world_to_camera


def in_front(
    view: Camera, instances: Sequence[Instance], uploads: Sequence[UploadedPoints]
) -> tuple[Camera, float]:
    """The camera moved back until it has all points before it, and by how much.

    Blender's orthographic views begin behind the viewer, but depths must be positive.
    """
    if view.near >= 0:
        return view, 0.0
    lowest = 0.0
    for instance, upload in zip(instances, uploads, strict=True):
        corners = np.stack(np.meshgrid(*upload.bounds.T), axis=-1).reshape(-1, 3)
        matrix = np.asarray(instance.matrix, np.float64)
        z = (corners @ matrix[:3, :3].T + matrix[:3, 3]) @ view.R[2] + view.t[2]
        lowest = min(lowest, float(z.min()))
    shift = min(-1.01 * lowest + 1e-3, -view.near)
    moved = replace(
        view, t=view.t + [0.0, 0.0, shift], near=view.near + shift, far=view.far + shift
    )
    return moved, shift


def depth_scale(view: Camera) -> float:
    return 2.0 ** -math.ceil(math.log2(view.far))
