# SPDX-License-Identifier: GPL-3.0-or-later
"""The Rendered mode of one 3D viewport.

The UI thread copies what a picture depends on and shows the last finished picture; the session's
thread decodes and draws the newest request. With Blender's graphics device that thread decodes
only, and the UI thread draws.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import bpy
import numpy as np

from ...engine.errors import PeelError
from ...engine.render.mesh import Mesh
from . import final, gl_peel
from .meshes import collect_surfaces, shade
from .scene import collect
from .session import Session
from .viewport_draw import PictureTexture, fill
from .viewport_pictures import STILL, Finished, Pictures
from .viewport_request import Subject, View, requested

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What the panel tells about a viewport.

    points: that were drawn, of all_points. layers: at most so many a pixel, None: all that the clip
    asks for. rate: pictures per second while it moved last.
    """

    device: str
    width: int
    height: int
    points: int
    all_points: int
    layers: int | None
    triangles: int
    seconds: float
    rate: float


class Viewport:
    """State of one viewport, of the UI thread; `pictures` are shared with the drawing thread.

    redraw: asks Blender, from any thread, to draw the viewport again.
    """

    def __init__(self, session: Session, redraw: Callable[[], None]) -> None:
        self._session = session
        self._redraw = redraw
        self.pictures = Pictures(session, redraw)
        self._subject: Subject | None = None
        self._problem: str | None = None
        self._texture = PictureTexture()
        self._gl_meshes: tuple[View | None, list[Mesh]] = (None, [])
        self._gl_complete: View | None = None
        self._gl_waits = False  # for a view that stands still
        #: How long Blender had to wait for the last callbacks, seconds.
        self.ui_seconds: deque[float] = deque(maxlen=2000)

    def update(self, depsgraph: bpy.types.Depsgraph, space: bpy.types.SpaceView3D | None) -> None:
        """Copy the evaluated scene. Faults become the viewport's text."""

        def visible(shown: bpy.types.Object) -> bool:
            return space is None or shown.visible_in_viewport_get(space)

        mode = depsgraph.scene.peel4d.meshes
        try:
            self._subject = Subject(
                collect(depsgraph, self._session, visible),
                collect_surfaces(depsgraph, mode, self._session.geometry, visible),
            )
            self._problem = None
        except PeelError as error:
            self._subject, self._problem = None, str(error)
        except Exception as error:
            log.exception("reading the scene failed")
            self._subject = None
            self._problem = f"internal error: {type(error).__name__}: {error}"

    def draw(self, context: bpy.types.Context, depsgraph: bpy.types.Depsgraph) -> str:
        """Show the newest picture, ask for a newer one; the text for the viewport's corner."""
        if self._subject is None:
            self.pictures.want(None)
            return self._problem or ""
        try:
            wanted = requested(context, depsgraph, self._subject)
        except PeelError as error:
            self.pictures.want(None)
            return str(error)
        self.pictures.want(wanted)
        if wanted is None:
            return ""
        scene = depsgraph.scene_eval
        background = None
        if not scene.render.film_transparent:
            background = tuple(final.world_color(scene.world))
        to_scene_linear = final.rec709_to_scene_linear()
        if wanted.quality.backend == "gl":
            return self._draw_gl(wanted, background, to_scene_linear)
        if gl_peel.drawn(id(self)) is not None:
            gl_peel.release(id(self))
        with self.pictures.shown() as finished:
            if finished is not None:
                self._texture.upload(finished.rgba, finished, finished.fine)
                if background is not None:
                    fill(finished.view.rectangle, background)
                self._texture.draw(_place_in_region(finished), background, to_scene_linear)
        return self.pictures.error_of(wanted)

    def _draw_gl(
        self,
        wanted: View,
        background: tuple[float, float, float] | None,
        to_scene_linear: np.ndarray | None,
    ) -> str:
        problem = self.pictures.error_of(wanted)
        clips, instances = self.pictures.loaded
        if problem or clips is None:
            return problem  # or the first points are on their way
        moving = self.pictures.moving
        camera = wanted.window_camera
        if not wanted.same_as(self._gl_meshes[0]):
            self._gl_meshes = (wanted, shade(wanted.subject.surfaces, camera))
        if background is not None:
            fill(wanted.rectangle, background)
        try:
            complete = gl_peel.draw_clips(
                instances,
                self._gl_meshes[1],
                camera,
                clips.settings,
                owner=id(self),
                moving=moving,
                target=wanted.rectangle,
                space="SCENE_LINEAR",
                to_scene_linear=to_scene_linear,
            )
        except PeelError as error:
            return str(error)
        if moving:
            self.pictures.rate.count(time.monotonic())
        if moving:
            self._redraw_when_still()
        elif not complete:
            self._redraw()
        elif clips is wanted.subject.clips:
            self._gl_complete = wanted
        return ""

    def _redraw_when_still(self) -> None:
        if not self._gl_waits:
            self._gl_waits = True
            bpy.app.timers.register(self._redraw_again, first_interval=STILL)

    def _redraw_again(self) -> None:
        self._gl_waits = False
        self._redraw()

    def report(self) -> Report | None:
        """About the last picture; None before the first."""
        finished, rate = self.pictures.finished, self.pictures.rate.per_second
        points = sum(len(one.splats) for one in self.pictures.loaded[1])
        if finished is not None:
            height, width = finished.picture.depth.shape
            return Report(
                finished.picture.backend,
                *(width, height, points, points, None),
                len(finished.view.subject.surfaces),
                finished.seconds,
                rate,
            )
        drawn = gl_peel.drawn(id(self))
        if drawn is None or self._subject is None:
            return None
        return Report(
            "gl",
            *(drawn.width, drawn.height, drawn.points, drawn.all_points, drawn.layers),
            len(self._subject.surfaces),
            drawn.seconds,
            rate,
        )

    @property
    def is_complete(self) -> bool:
        """Whether the newest request has been drawn in full."""
        wanted = self.pictures.wanted
        if wanted is not None and wanted.quality.backend == "gl":
            return wanted.same_as(self._gl_complete)
        return self.pictures.is_complete

    @property
    def finished(self) -> Finished | None:
        """The newest picture; None on Blender's graphics device, which keeps it."""
        return self.pictures.finished

    def close(self) -> None:
        """Its region is gone: `redraw` is not called again."""
        self.pictures.close()
        gl_peel.release(id(self))


def _place_in_region(finished: Finished) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of what is shown, as shares of the region."""
    x, y, width, height = finished.view.rectangle
    left, bottom, across, up = finished.place
    camera = finished.view.camera
    return (
        (x + left * width) / camera.width,
        (y + bottom * height) / camera.height,
        across * width / camera.width,
        up * height / camera.height,
    )
