# SPDX-License-Identifier: GPL-3.0-or-later
"""What a viewport is asked to show: the scene, the camera of its region, the quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import bpy

from ...engine.render.backend import Instance
from ...engine.render.camera import Camera
from ...engine.render.settings import Rendered
from . import final, view
from .meshes import Surfaces, shade
from .picture import Canvas, Quality, peel
from .scene import ClipScene


@dataclass(frozen=True, eq=False)
class Subject:
    """What is drawn, without the view."""

    clips: ClipScene
    surfaces: Surfaces


@dataclass(frozen=True, eq=False)
class View:
    """One request.

    camera: of the whole region. window: the part of it that is drawn. quality: of the picture when
    the view stands still; its back end may be "gl".
    """

    subject: Subject
    camera: Camera
    window: view.Window
    quality: Quality

    def same_as(self, other: View | None) -> bool:
        return (
            other is not None
            and self.subject is other.subject
            and self.window == other.window
            and self.quality == other.quality
            and _camera_key(self.camera) == _camera_key(other.camera)
        )

    @property
    def window_camera(self) -> Camera:
        """The camera of the part that is drawn."""
        window = self.window
        return self.camera.crop(window.x, window.y, window.width, window.height)

    @property
    def rectangle(self) -> tuple[int, int, int, int]:
        """x, y, width, height of the part that is drawn, from the region's lower left corner."""
        window = self.window
        bottom = self.camera.height - window.y - window.height
        return window.x, bottom, window.width, window.height

    @property
    def fills_region(self) -> bool:
        return (self.window.width, self.window.height) == (self.camera.width, self.camera.height)


def requested(
    context: bpy.types.Context, depsgraph: bpy.types.Depsgraph, subject: Subject
) -> View | None:
    """What the viewport of a `view_draw` is to show; None where a render border leaves nothing.

    Raises PeelError for a region that has no view yet.
    """
    region, region_data, space = context.region, context.region_data, context.space_data
    scene = depsgraph.scene_eval
    looked_through = None
    if region_data.view_perspective == "CAMERA":
        chosen = space.camera if space.use_local_camera else depsgraph.scene.camera
        if chosen is not None and chosen.type == "CAMERA":
            looked_through = chosen.evaluated_get(depsgraph)
    clip = None
    if looked_through is not None:
        clip = (looked_through.data.clip_start, looked_through.data.clip_end)
    elif region_data.is_perspective:
        clip = (space.clip_start, space.clip_end)
    camera = view.region_camera(
        region_data.window_matrix, region_data.view_matrix, region.width, region.height, clip
    )
    window = view.Window(0, 0, camera.width, camera.height)
    render = scene.render
    if looked_through is not None and render.use_border:
        frame = view.camera_frame(camera, looked_through, depsgraph.scene)
        window = view.border_window(frame, _border(render, ""), camera.width, camera.height)
    elif looked_through is None and space.use_render_border:
        frame = (0.0, 0.0, float(camera.width), float(camera.height))
        window = view.border_window(frame, _border(space, "render_"), camera.width, camera.height)
    if window.width == 0 or window.height == 0:
        return None
    # The evaluated copy learns of changes by scripts only when something else is evaluated.
    settings = depsgraph.scene.peel4d
    quality = Quality(
        int(settings.samples), settings.viewport_backend.lower(), final.threads(scene.render)
    )
    return View(subject, camera, window, quality)


def peel_view(
    wanted: View,
    instances: list[Instance],
    scale: float,
    quality: Quality,
    canvas: Canvas,
    stop: Callable[[], bool] = lambda: False,
) -> Rendered | None:
    """The picture of a view at a share of its size, as a final render of its camera draws it."""
    camera = wanted.window_camera
    if scale != 1.0:
        camera = camera.scaled(
            max(round(camera.width * scale), 1), max(round(camera.height * scale), 1)
        )
    return peel(
        instances,
        shade(wanted.subject.surfaces, camera),
        camera,
        wanted.subject.clips.settings,
        quality,
        canvas=canvas,
        stop=stop,
    )


def _border(owner: object, prefix: str) -> tuple[float, ...]:
    """Left, bottom, right, top, as shares."""
    edges = ("min_x", "min_y", "max_x", "max_y")
    return tuple(getattr(owner, f"{prefix}border_{edge}") for edge in edges)


def _camera_key(camera: Camera) -> tuple[object, ...]:
    arrays = (camera.K.tobytes(), camera.R.tobytes(), camera.t.tobytes())
    size = (camera.width, camera.height)
    return (*arrays, *size, camera.near, camera.far, camera.orthographic)
