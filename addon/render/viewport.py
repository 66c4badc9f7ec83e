# SPDX-License-Identifier: GPL-3.0-or-later
"""The Rendered mode of one 3D viewport.

The UI thread copies what a picture depends on and shows the last finished picture; the session's
thread decodes and draws the newest request, smaller while the view moves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import bpy
import numpy as np

from ...engine.errors import PeelError
from ...engine.render.backend import Instance
from ...engine.render.camera import Camera
from ...engine.render.mesh import Mesh
from ...engine.render.settings import Rendered
from . import final, gl_peel, view
from .meshes import Surfaces, collect_surfaces, shade
from .pace import Pace
from .picture import Canvas, Quality, peel
from .prefetch import prefetch, step_between
from .scene import ClipScene, collect
from .session import Session
from .viewport_draw import PictureTexture

log = logging.getLogger(__name__)

#: A view that has not changed for so long stands still, seconds.
STILL = 0.15
#: After so long without a picture a new movement begins, seconds.
_PAUSE = 1.0
#: Pictures that the displayed rate looks back on.
_RATE_OVER = 12


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


@dataclass(frozen=True, eq=False)
class Finished:
    """A picture and how it came about.

    scale: of width and height. seconds: that it took, decoding included. fine: it is what the view
    looks like when it stands still.
    """

    picture: Rendered
    canvas: Canvas
    view: View
    scale: float
    quality: Quality
    seconds: float
    fine: bool


@dataclass(frozen=True)
class Report:
    """What the panel tells about a viewport. rate: pictures per second while it moved last."""

    device: str
    width: int
    height: int
    points: int
    triangles: int
    seconds: float
    rate: float


class Viewport:
    """State of one viewport.

    redraw: asks Blender, from any thread, to draw the viewport again. `update` and `draw` are the
    UI thread's; `due` and `draw_next` the drawing thread's.
    """

    def __init__(self, session: Session, redraw: Callable[[], None]) -> None:
        self._session = session
        self._redraw = redraw
        self._lock = threading.RLock()
        self._closed = False
        # Of the UI thread.
        self._subject: Subject | None = None
        self._problem: str | None = None
        self._texture = PictureTexture()
        self._gl_meshes: tuple[View | None, list[Mesh]] = (None, [])
        self.ui_seconds: deque[float] = deque(maxlen=2000)
        # Shared, under the lock.
        self._wanted: View | None = None
        self._changed = 0.0
        self._drawn: View | None = None  # the last one with a picture of any quality
        self._complete: View | None = None  # the last one with a picture that is final
        self._finished: Finished | None = None
        self._uploading: Finished | None = None
        self._free: list[Canvas] = []
        self._error: tuple[View, str] | None = None
        self._times: deque[float] = deque(maxlen=_RATE_OVER)
        # Of the drawing thread, but for the reference itself.
        self._loaded: tuple[ClipScene | None, list[Instance]] = (None, [])
        self._pace = Pace()

    # The UI thread.

    def update(self, depsgraph: bpy.types.Depsgraph, space: bpy.types.SpaceView3D | None) -> None:
        """Copy the evaluated scene. Faults become the viewport's text."""

        def visible(shown: bpy.types.Object) -> bool:
            return space is None or shown.original.visible_in_viewport_get(space)

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
            self.want(None)
            return self._problem or ""
        scene = depsgraph.scene_eval
        backend = depsgraph.scene.peel4d.viewport_backend
        try:
            wanted = self.view_of(context, depsgraph)
        except PeelError as error:
            self.want(None)
            return str(error)
        self.want(wanted)
        if wanted is None:
            return ""
        background = None
        if not scene.render.film_transparent:
            background = tuple(final.world_color(scene.world))
        to_scene_linear = final.rec709_to_scene_linear()
        if backend == "GL":
            return self._draw_gl(wanted, background, to_scene_linear)
        with self._lock:
            finished = self._uploading = self._finished
            error = self._error
        if finished is not None:
            try:
                self._texture.upload(finished.picture.rgba, finished, finished.fine)
            finally:
                with self._lock:
                    self._uploading = None
            rectangle = _rectangle(finished.view)
            self._texture.draw(rectangle, background, to_scene_linear)
        return error[1] if error is not None and error[0].same_as(wanted) else ""

    def view_of(self, context: bpy.types.Context, depsgraph: bpy.types.Depsgraph) -> View | None:
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
            border = (
                render.border_min_x,
                render.border_min_y,
                render.border_max_x,
                render.border_max_y,
            )
            window = view.border_window(frame, border, camera.width, camera.height)
        elif looked_through is None and space.use_render_border:
            frame = (0.0, 0.0, float(camera.width), float(camera.height))
            border = (
                space.render_border_min_x,
                space.render_border_min_y,
                space.render_border_max_x,
                space.render_border_max_y,
            )
            window = view.border_window(frame, border, camera.width, camera.height)
        if window.width == 0 or window.height == 0:
            return None
        # The evaluated copy learns of changes by scripts only when something else is evaluated.
        settings = depsgraph.scene.peel4d
        backend = settings.viewport_backend
        quality = Quality(
            int(settings.samples),
            "gl" if backend == "GL" else backend.lower(),
            final.threads(scene.render),
        )
        return View(self._subject, camera, window, quality)

    def want(self, wanted: View | None) -> None:
        """Make this the newest request; None: nothing is wanted."""
        with self._lock:
            if wanted is None:
                self._wanted = self._finished = None
                return
            if wanted.same_as(self._wanted):
                return
            self._wanted = wanted
            self._changed = time.monotonic()
        self._session.thread.notify(self)

    def _draw_gl(
        self,
        wanted: View,
        background: tuple[float, float, float] | None,
        to_scene_linear: np.ndarray | None,
    ) -> str:
        clips, instances = self._loaded
        with self._lock:
            error = self._error
            moving = time.monotonic() - self._changed < STILL
        if error is not None and error[0].same_as(wanted):
            return error[1]
        if clips is None:
            return ""  # the first points are on their way
        window = wanted.window
        camera = wanted.camera.crop(window.x, window.y, window.width, window.height)
        if not wanted.same_as(self._gl_meshes[0]):
            self._gl_meshes = (wanted, shade(wanted.subject.surfaces, camera))
        if background is not None:
            import gpu

            gpu.state.active_framebuffer_get().clear(color=(*map(float, background), 1.0))
        try:
            complete = gl_peel.draw_clips(
                instances,
                self._gl_meshes[1],
                camera,
                clips.settings,
                owner=id(self),
                moving=moving,
                target=(
                    window.x,
                    wanted.camera.height - window.y - window.height,
                    window.width,
                    window.height,
                ),
                space="SCENE_LINEAR",
                to_scene_linear=to_scene_linear,
            )
        except PeelError as problem:
            return str(problem)
        with self._lock:
            self._count_picture()
        if moving or not complete:
            self._redraw()
        return ""

    def report(self) -> Report | None:
        """About the last picture; None before the first."""
        with self._lock:
            finished, times = self._finished, tuple(self._times)
        if finished is None:
            return None
        rate = (len(times) - 1) / max(times[-1] - times[0], 1e-6) if len(times) > 1 else 0.0
        height, width = finished.picture.depth.shape
        points = sum(len(one.splats) for one in self._loaded[1])
        return Report(
            finished.picture.backend,
            width,
            height,
            points,
            len(finished.view.subject.surfaces),
            finished.seconds,
            rate,
        )

    @property
    def is_complete(self) -> bool:
        """Whether the newest request has been drawn in full."""
        with self._lock:
            return self._wanted is not None and self._complete is self._wanted

    @property
    def finished(self) -> Finished | None:
        """The newest picture."""
        with self._lock:
            return self._finished

    def close(self) -> None:
        """Its region is gone: `redraw` is not called again."""
        with self._lock:
            self._closed = True
            self._wanted = self._finished = None
        self._session.thread.forget(self)
        gl_peel.release(id(self))

    # The drawing thread.

    def due(self) -> float | None:
        with self._lock:
            wanted = self._wanted
            if self._closed or wanted is None or self._complete is wanted:
                return None
            if self._error is not None and self._error[0] is wanted:
                return None
            return self._changed + STILL if self._drawn is wanted else 0.0

    def draw_next(self) -> None:
        """Draw the newest request, small at first; in full when it stands still."""
        with self._lock:
            wanted = self._wanted
            if wanted is None or self._closed:
                return
            still = self._drawn is wanted
            last = self._finished
        try:
            if wanted.quality.backend == "gl":
                self._load(wanted.subject.clips)
                self._publish(wanted, None, complete=True)
            elif (
                still
                and last is not None
                and last.scale == 1.0
                and (last.view is wanted and last.quality == wanted.quality)
            ):
                self._publish(wanted, replace(last, fine=True), complete=True)
            else:
                self._draw_picture(wanted, still)
        except PeelError as error:
            self._fail(wanted, str(error))
        except Exception as error:
            log.exception("drawing a viewport failed")
            self._fail(wanted, f"internal error: {type(error).__name__}: {error}")

    def _draw_picture(self, wanted: View, still: bool) -> None:
        begin = time.perf_counter()
        instances = self._load(wanted.subject.clips)
        scale = 1.0 if still else self._pace.scale()
        quality = wanted.quality
        if not still:
            quality = Quality(1, quality.backend, quality.threads)
        with self._lock:
            canvas = self._free.pop() if self._free else Canvas()
        decoded = time.perf_counter()
        picture = peel_view(
            wanted,
            instances,
            scale,
            quality,
            canvas,
            # What is drawn small is soon ready and shows at least that something moves.
            (lambda: self._wanted is not wanted) if still else (lambda: False),
        )
        end = time.perf_counter()
        if picture is None:
            with self._lock:
                self._free.append(canvas)
            return
        if not still:
            self._pace.record(scale, end - decoded)
        finished = Finished(picture, canvas, wanted, scale, quality, end - begin, fine=still)
        self._publish(wanted, finished, complete=still)

    def _load(self, clips: ClipScene) -> list[Instance]:
        last, instances = self._loaded
        if last is clips:
            return instances
        instances = []
        for index, item in enumerate(clips.instances):
            for part in self._session.points(item.reader, item.frame, item.look):
                instances.append(Instance(part, item.matrix, item.opacity, index))
        self._loaded = (clips, instances)
        prefetch(clips, step_between(None if last is None else last.time, clips.time))
        return instances

    def _publish(self, wanted: View, finished: Finished | None, complete: bool) -> None:
        with self._lock:
            if self._closed or self._wanted is None:
                return
            self._drawn = wanted
            if complete:
                self._complete = wanted
            self._error = None
            if finished is None:
                self._finished = None  # the graphics device keeps the picture
            else:
                if not finished.fine:
                    self._count_picture()
                old, self._finished = self._finished, finished
                used = [one.canvas for one in (finished, self._uploading) if one is not None]
                if old is not None and old.canvas not in used:
                    self._free = [old.canvas]
            self._redraw()

    def _count_picture(self) -> None:
        """For the displayed rate, which is that of the last movement. The lock is held."""
        now = time.monotonic()
        if self._times and now - self._times[-1] > _PAUSE:
            self._times.clear()
        self._times.append(now)

    def _fail(self, wanted: View, text: str) -> None:
        with self._lock:
            if self._closed or self._wanted is not wanted:
                return
            self._error = (wanted, text)
            self._finished = None
            self._redraw()


def peel_view(
    wanted: View,
    instances: list[Instance],
    scale: float,
    quality: Quality,
    canvas: Canvas,
    stop: Callable[[], bool] = lambda: False,
) -> Rendered | None:
    """The picture of a view at a share of its size, as a final render of its camera draws it."""
    window = wanted.window
    camera = wanted.camera.crop(window.x, window.y, window.width, window.height)
    if scale != 1.0:
        camera = camera.scaled(
            max(round(window.width * scale), 1), max(round(window.height * scale), 1)
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


def _camera_key(camera: Camera) -> tuple[object, ...]:
    arrays = (camera.K.tobytes(), camera.R.tobytes(), camera.t.tobytes())
    size = (camera.width, camera.height)
    return (*arrays, *size, camera.near, camera.far, camera.orthographic)


def _rectangle(drawn: View) -> tuple[float, float, float, float]:
    """left, bottom, width, height as shares of the region."""
    window, width, height = drawn.window, drawn.camera.width, drawn.camera.height
    bottom = height - window.y - window.height
    return window.x / width, bottom / height, window.width / width, window.height / height
