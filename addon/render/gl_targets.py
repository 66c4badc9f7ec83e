# SPDX-License-Identifier: GPL-3.0-or-later
"""The textures of a picture, and the passes that fill them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...engine.render.camera import Camera
from .gl_context import batch, program, read_color
from .gl_footprints import Footprints, depth_scale, projection
from .gl_shaders import COVERAGE_SQUARE, LAYERS_PER_BATCH, POINTS_PER_INSTANCE
from .gl_upload import UploadedMesh, texture_of

#: Points of one layer that are drawn at a time: what cannot be interrupted. A multiple of
#: POINTS_PER_INSTANCE.
POINTS_PER_STEP = 1 << 15


@dataclass(frozen=True, eq=False)
class SceneDepth:
    """What the viewport has drawn already; the same object means the same contents.

    window: (H, W) float32, its depth buffer, row 0 = bottom, 1 where there is nothing; it covers
    the camera's picture at any resolution. projection: (4, 4), Blender's, which made it
    (region_data.window_matrix). backdrop: (H, 3) display-referred, what the framebuffer holds where
    there is nothing; only for the space ENCODED.
    """

    window: np.ndarray
    projection: np.ndarray
    backdrop: np.ndarray | None = None

    @functools.cached_property
    def texture(self):
        return texture_of(np.ascontiguousarray(self.window, np.float32), "R32F")

    @functools.cached_property
    def backdrop_texture(self):
        rows = np.zeros((len(self.window), 1, 4), np.float32)
        if self.backdrop is not None:
            rows[:, 0, :3] = self.backdrop
        return texture_of(rows, "RGBA32F")

    def release(self) -> None:
        """Free the textures; they are made again when they are needed."""
        self.__dict__.pop("texture", None)
        self.__dict__.pop("backdrop_texture", None)


NO_SCENE = SceneDepth(np.ones((1, 1), np.float32), np.eye(4))


class Targets:
    """The textures of a picture of one size.

    total: RGBA32F premultiplied, what was composited of the points.
    """

    def __init__(self, width: int, height: int) -> None:
        from gpu.types import GPUFrameBuffer, GPUTexture

        self.size = size = (width, height)
        self._mesh = GPUTexture(size, format="RGBA16F")
        self._limit = GPUTexture(size, format="DEPTH_COMPONENT32F")
        self._depths = [GPUTexture(size, format="DEPTH_COMPONENT32F") for _ in range(2)]
        self._layers = [GPUTexture(size, format="RGBA16F") for _ in range(LAYERS_PER_BATCH)]
        self._totals = [GPUTexture(size, format="RGBA32F") for _ in range(2)]
        self._limit_buffer = GPUFrameBuffer(depth_slot=self._limit, color_slots=(self._mesh,))
        self._indices = [GPUTexture(size, format="R32F") for _ in range(2)]
        self._layer_buffers = [
            GPUFrameBuffer(
                depth_slot=self._depths[k % 2], color_slots=(layer, self._indices[k % 2])
            )
            for k, layer in enumerate(self._layers)
        ]
        self._squares = (-(-width // COVERAGE_SQUARE), -(-height // COVERAGE_SQUARE))
        self._coverage = GPUTexture(self._squares, format="RGBA16F")
        self._coverage_buffer = GPUFrameBuffer(color_slots=(self._coverage,))
        self._total_buffers = [GPUFrameBuffer(color_slots=(total,)) for total in self._totals]
        self._last = 0
        self._resolved = GPUTexture(size, format="RGBA16F")
        self._resolved_buffer = GPUFrameBuffer(color_slots=(self._resolved,))
        self._resolved_as: tuple | None = None

    @property
    def total(self):
        return self._totals[self._last]

    def draw_limit(
        self,
        meshes: Sequence[UploadedMesh],
        view: Camera,
        scene_depth: SceneDepth | None,
        shift: float,
    ) -> None:
        """Triangles, and the depth before which points are layers. shift: as of `in_front`."""
        import gpu

        with self._limit_buffer.bind():
            self._limit_buffer.clear(color=(0.0, 0.0, 0.0, 0.0), depth=1.0)
            gpu.state.blend_set("NONE")
            gpu.state.depth_mask_set(True)
            gpu.state.face_culling_set("NONE")
            if scene_depth is not None:
                self._draw_scene_depth(scene_depth, view, shift)
            gpu.state.depth_test_set("LESS")
            if not meshes:
                return
            shader = program("mesh")
            shader.bind()
            shader.uniform_float("projection", projection(view).T.ravel().tolist())
            shader.uniform_float("forward", (*view.R[2], view.t[2]))
            shader.uniform_float("depth_scale", depth_scale(view))
            for mesh in meshes:
                if mesh.batch is not None:
                    mesh.batch.draw(shader)

    def _draw_scene_depth(self, scene_depth: SceneDepth, view: Camera, shift: float) -> None:
        import gpu

        gpu.state.depth_test_set("ALWAYS")
        shader = program("limit")
        shader.bind()
        # Blender looks along -z: with z forward its third column changes its sign.
        rows = np.asarray(scene_depth.projection, np.float64)[2:, 2:] * [-1, 1]
        shader.uniform_float("rows", tuple(rows.ravel()))
        shader.uniform_float("size", self.size)
        shader.uniform_float("depth_scale", depth_scale(view))
        shader.uniform_float("shift", shift)
        shader.uniform_sampler("scene", scene_depth.texture)
        batch("rectangle").draw(shader)

    def passes(
        self, footprints: Footprints, count: int, layers: int, min_transmittance: float
    ) -> Iterator[None]:
        """Peel `layers` of the first `count` footprints and composite them to `total`, in steps of
        POINTS_PER_STEP. Ends before that when no pixel has anything left to be drawn."""
        self._last, self._resolved_as = 0, None
        with self._total_buffers[0].bind():
            self._total_buffers[0].clear(color=(0.0, 0.0, 0.0, 0.0))
        if count == 0:
            return
        with self._layer_buffers[1].bind():
            self._layer_buffers[1].clear(depth=0.0)  # every point is behind it
        for first in range(0, layers, LAYERS_PER_BATCH):
            together = min(LAYERS_PER_BATCH, layers - first)
            for k in range(together):
                with self._layer_buffers[k].bind():
                    self._layer_buffers[k].clear(color=(0.0, 0.0, 0.0, 0.0), depth=1.0)
                for start in range(0, count, POINTS_PER_STEP):
                    points = (start, min(POINTS_PER_STEP, count - start))
                    self._draw_points(k, footprints, points, min_transmittance)
                    yield
            self._composite(together, min_transmittance)
            if first + together < layers and not self._any_in(self._layers[together - 1]):
                return

    def _draw_points(
        self, k: int, footprints: Footprints, points: tuple[int, int], min_transmittance: float
    ) -> None:
        """Into layer k of the batch. points: the first and how many; the depth test brings those of
        several calls together."""
        import gpu

        gpu.state.blend_set("NONE")
        gpu.state.depth_test_set("LESS")
        gpu.state.depth_mask_set(True)
        shader = program("peel")
        with self._layer_buffers[k].bind():
            shader.bind()
            shader.uniform_float("size", self.size)
            shader.uniform_float("min_transmittance", min_transmittance)
            shader.uniform_int("first", points[0])
            footprints.use(shader)
            shader.uniform_sampler("before", self._depths[(k - 1) % 2])
            shader.uniform_sampler("before_index", self._indices[(k - 1) % 2])
            shader.uniform_sampler("limit", self._limit)
            shader.uniform_sampler("total", self.total)
            batch("points").draw_instanced(
                shader, instance_start=0, instance_count=-(-points[1] // POINTS_PER_INSTANCE)
            )

    def _composite(self, together: int, min_transmittance: float) -> None:
        import gpu

        gpu.state.blend_set("NONE")
        gpu.state.depth_test_set("NONE")
        gpu.state.depth_mask_set(False)
        other = 1 - self._last
        shader = program("composite")
        with self._total_buffers[other].bind():
            shader.bind()
            shader.uniform_int("count", together)
            shader.uniform_float("min_transmittance", min_transmittance)
            shader.uniform_sampler("total", self.total)
            for k, layer in enumerate(self._layers):
                shader.uniform_sampler(f"layer{k}", layer)
            batch("rectangle").draw(shader)
        self._last = other

    def _any_in(self, layer) -> bool:
        """Whether a layer has anything in it; Blender's module cannot count what is drawn."""
        import gpu

        gpu.state.blend_set("NONE")
        shader = program("coverage")
        with self._coverage_buffer.bind():
            shader.bind()
            shader.uniform_sampler("layer", layer)
            batch("rectangle").draw(shader)
        return bool(read_color(self._coverage_buffer, *self._squares).max() > 0.0)

    def finish(self) -> None:
        """Wait until everything is drawn that was asked for."""
        self._total_buffers[self._last].read_color(0, 0, 1, 1, 4, 0, "FLOAT")

    def read(self) -> np.ndarray:
        """The picture (H, W, 4) float32, premultiplied, row 0 = top, with the meshes."""
        width, height = self.size
        points, mesh = (
            read_color(buffer, width, height)[::-1]
            for buffer in (self._total_buffers[self._last], self._limit_buffer)
        )
        return points + (1 - points[..., 3:]) * mesh

    def resolved(self, linear: bool, to_scene_linear: np.ndarray | None):
        """The finished picture with the meshes as a texture: display-referred or scene-linear."""
        import gpu

        matrix = np.eye(4)
        if to_scene_linear is not None:
            matrix[:3, :3] = to_scene_linear
        wanted = (linear, matrix.tobytes())
        if wanted != self._resolved_as:
            gpu.state.blend_set("NONE")
            gpu.state.depth_test_set("NONE")
            gpu.state.depth_mask_set(False)
            shader = program("resolve")
            with self._resolved_buffer.bind():
                shader.bind()
                shader.uniform_float("to_scene", matrix.T.ravel().tolist())
                shader.uniform_int("linear", int(linear))
                shader.uniform_sampler("total", self.total)
                shader.uniform_sampler("mesh", self._mesh)
                batch("rectangle").draw(shader)
            self._resolved_as = wanted
        return self._resolved


def show_picture(picture, depth: SceneDepth, encoded: bool, exact: bool) -> None:
    """Draw a picture over the bound framebuffer's viewport. exact: it has as many pixels."""
    import gpu

    gpu.state.blend_set("ALPHA_PREMULT")
    gpu.state.depth_test_set("NONE")
    gpu.state.depth_mask_set(False)
    shader = program("show")
    shader.bind()
    shader.uniform_int("encoded", int(encoded))
    shader.uniform_int("interpolate", 0 if exact else 1)
    shader.uniform_sampler("picture", picture)
    shader.uniform_sampler("scene", depth.texture)
    shader.uniform_sampler("backdrop", depth.backdrop_texture)
    batch("rectangle").draw(shader)
