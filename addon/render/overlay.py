# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips in viewports of other engines and shading modes.

A draw handler that runs when Blender has drawn the scene, so the clips are tested against its depth
buffer: CG in front hides points, and points hide CG. It draws on Blender's graphics device, also
where that is software: pictures of the CPU core have one depth a pixel, which is not enough to put
a mesh between the points. Points are decoded by the session's thread; until then a viewport keeps
showing those that it had.
"""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import dataclass, field

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ...engine.errors import PeelError
from ...engine.render.camera import Camera
from . import gl_peel
from .engine import ENGINE_ID
from .gl_context import read_color
from .gl_targets import SceneDepth
from .loading import Loading
from .scene import ClipScene, collect
from .session import SESSION
from .view import region_camera

#: A view that did not change for so long is a still one, seconds.
_STILL_AFTER = 0.2
#: How often points that are being decoded are looked for, seconds.
_POLL = 0.01
#: Rows over which lines (of the grid) are taken out of the viewport's background.
_SMOOTH = 15

log = logging.getLogger(__name__)


@dataclass
class _View:
    """One region. seen: what its last picture depended on. waits: a redraw is on its way. polls: it
    comes when points are decoded."""

    seen: tuple = ()
    changed: float = 0.0
    depth: SceneDepth | None = None
    loading: Loading = field(default_factory=lambda: Loading(SESSION))
    waits: bool = False
    polls: bool = False


@dataclass
class Overlay:
    """The draw handler and what it remembers.

    problem: why clips are not shown, None while they are. failed: the state of the scene in which
    drawing failed unexpectedly; it is not tried again in the same.
    """

    handle: object | None = None
    problem: str | None = None
    failed: tuple | None = None
    views: dict[int, _View] = field(default_factory=dict)

    def draw(self) -> None:
        """The callback. Whatever happens, Blender's own drawing goes on."""
        context = bpy.context
        state: tuple = ()
        try:
            if not _wanted(context):
                return
            clips = _collect(context)
            state = tuple((one.reader.path, one.frame) for one in clips.instances)
            if not clips.instances or state == self.failed:
                if not clips.instances:
                    self._solved()
                return
            self._draw_clips(context, clips)
            self._solved()
        except PeelError as error:
            self._note(str(error))
        except Exception as error:  # an exception in a draw handler would come back for every frame
            self.failed = state
            text = f"internal error: {type(error).__name__}: {error}"
            if text != self.problem:
                log.exception("drawing clips in a viewport failed")
            self._note(text)

    def release(self) -> None:
        """Free everything on the graphics device, and begin anew."""
        for pointer in list(self.views):
            self._forget(pointer)
        self._solved()

    def _forget(self, pointer: int) -> None:
        gl_peel.release(("overlay", pointer))
        self.views.pop(pointer).loading.close()

    def _solved(self) -> None:
        if self.problem is not None:
            bpy.app.timers.register(_redraw_sidebars, first_interval=0.0)
        self.problem = self.failed = None

    def _note(self, text: str) -> None:
        """Once to the console, and into the sidebar."""
        if text != self.problem:
            self.problem = text
            bpy.app.timers.register(_redraw_sidebars, first_interval=0.0)
            print(f"Peel4D: viewport overlay: {text}")

    def _draw_clips(self, context: bpy.types.Context, clips: ClipScene) -> None:
        import gpu

        region, now = context.region, time.monotonic()
        view = self._view_of(context, region)
        instances = view.loading.instances(clips)
        if view.loading.busy and not view.polls:
            view.polls = True
            loaded = functools.partial(self._redraw_when_loaded, region.as_pointer())
            bpy.app.timers.register(loaded, first_interval=_POLL)
        if not instances:
            return
        window = context.region_data.window_matrix
        camera = _camera(context)
        framebuffer = gpu.state.active_framebuffer_get()
        space = gl_peel.framebuffer_space(framebuffer)
        depth = _scene_depth(framebuffer, camera, np.array(window), view.depth)
        seen = (
            tuple((id(one.splats), one.matrix.tobytes(), one.opacity) for one in instances),
            np.array(window).tobytes() + np.array(context.region_data.view_matrix).tobytes(),
            id(depth),
            clips.settings,
        )
        if seen != view.seen:
            view.changed = now
        moving = now - view.changed < _STILL_AFTER or context.screen.is_animation_playing
        view.seen, view.depth = seen, depth
        complete = gl_peel.draw_clips(
            instances,
            (),
            camera,
            clips.settings,
            owner=("overlay", region.as_pointer()),
            moving=moving,
            scene_depth=depth,
            space=space,
        )
        if not complete and not context.screen.is_animation_playing and not view.waits:
            view.waits = True
            wait = 1.5 * _STILL_AFTER if moving else 0.01
            redraw = functools.partial(self._redraw, region.as_pointer())
            bpy.app.timers.register(redraw, first_interval=wait)

    def _view_of(self, context: bpy.types.Context, region: bpy.types.Region) -> _View:
        pointer = region.as_pointer()
        if pointer not in self.views:
            alive = {one.as_pointer() for one in _regions()}
            for closed in [key for key in self.views if key not in alive]:
                self._forget(closed)
            self.views[pointer] = _View()
        return self.views[pointer]

    def _redraw(self, pointer: int) -> None:
        view = self.views.get(pointer)
        if view is None:
            return
        view.waits = False
        _redraw_region(pointer)

    def _redraw_when_loaded(self, pointer: int) -> float | None:
        """A timer: seconds until the next look, None: that was the last one."""
        view = self.views.get(pointer)
        if view is None:
            return None
        if view.loading.busy:
            return _POLL
        view.polls = False
        _redraw_region(pointer)
        return None


#: The one overlay of this process.
OVERLAY = Overlay()


class PEEL4D_VIEW3D_PT_overlay_problem(bpy.types.Panel):
    """Why clips are missing in the viewport"""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Peel4D"
    bl_label = "Clips Are Not Shown"
    bl_order = -1

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return OVERLAY.problem is not None and context.scene.peel4d.overlay

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column(align=True)
        letters = max(context.region.width // 8, 20)
        for index, line in enumerate(_lines(OVERLAY.problem or "", letters)):
            column.label(text=line, icon="NONE" if index else "ERROR")


def _lines(text: str, letters: int) -> list[str]:
    import textwrap

    return [line for part in text.splitlines() for line in textwrap.wrap(part, letters) or [""]]


def _wanted(context: bpy.types.Context) -> bool:
    """Whether this viewport shows clips by the overlay."""
    if context.region_data is None or not context.scene.peel4d.overlay:
        return False
    # Material Preview, too, is the engine's own picture as long as it does not ask for EEVEE.
    ours = context.space_data.shading.type in ("RENDERED", "MATERIAL")
    return not (ours and context.scene.render.engine == ENGINE_ID)


def _collect(context: bpy.types.Context) -> ClipScene:
    """What this viewport shows: hidden collections and objects are the depsgraph's, local view and
    local collections the viewport's. Raises ClipError."""
    space = context.space_data
    return collect(
        context.evaluated_depsgraph_get(),
        SESSION,
        visible=lambda shown: shown.visible_in_viewport_get(space),
    )


def _camera(context: bpy.types.Context) -> Camera:
    region, view, space = context.region, context.region_data, context.space_data
    # Single precision leaves few digits of far in the matrix; orthographic views begin behind it.
    known = view.view_perspective == "PERSP"
    return region_camera(
        np.array(view.window_matrix),
        np.array(view.view_matrix),
        region.width,
        region.height,
        (space.clip_start, space.clip_end) if known else None,
    )


def _scene_depth(
    framebuffer, camera: Camera, projection: np.ndarray, last: SceneDepth | None
) -> SceneDepth:
    """What Blender has drawn; `last` where that is the same."""
    import gpu

    width, height = camera.width, camera.height
    window = np.empty((height, width), np.float32)
    data = gpu.types.Buffer("FLOAT", window.size, window.reshape(-1))
    framebuffer.read_depth(0, 0, width, height, data=data)
    backdrop = _backdrop(framebuffer, window)
    if (
        last is not None
        and np.array_equal(last.window, window)
        and np.array_equal(last.backdrop, backdrop)
        and np.array_equal(last.projection, projection)
    ):
        return last
    return SceneDepth(window, projection, backdrop)


def _backdrop(framebuffer, window: np.ndarray) -> np.ndarray:
    """(H, 3): the viewport's background by row, which Blender draws before the handlers, as it is
    at both sides of the region, without the grid's lines."""
    height, width = window.shape
    sides = np.full((2, height, 3), np.nan, np.float32)
    for side, x in zip(sides, (0, width - 1), strict=True):
        empty = window[:, x] >= 1
        side[empty] = read_color(framebuffer, 1, height, x)[empty, 0, :3]
    seen = ~np.isnan(sides[..., 0]).all(axis=0)
    if not seen.any():
        return np.zeros((height, 3), np.float32)
    rows = np.arange(height)
    darker = np.fmin(*sides)
    filled = [np.interp(rows, rows[seen], darker[seen, channel]) for channel in range(3)]
    padded = np.pad(np.stack(filled, axis=1), ((_SMOOTH // 2, _SMOOTH // 2), (0, 0)), mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, _SMOOTH, axis=0), axis=-1)
    return smooth.astype(np.float32)


def _redraw_region(pointer: int) -> None:
    for region in _regions():
        if region.as_pointer() == pointer:
            region.tag_redraw()


def _redraw_sidebars() -> None:
    for region in _regions("UI"):
        region.tag_redraw()


def _regions(kind: str = "WINDOW") -> list[bpy.types.Region]:
    """The regions of a kind of all 3D viewports; a quad view has four main ones."""
    return [
        region
        for window in bpy.context.window_manager.windows
        for area in window.screen.areas
        if area.type == "VIEW_3D"
        for region in area.regions
        if region.type == kind
    ]


@persistent
def _release(*_args) -> None:
    OVERLAY.release()
    gl_peel.release_all()


def register() -> None:
    bpy.utils.register_class(PEEL4D_VIEW3D_PT_overlay_problem)
    bpy.app.handlers.load_pre.append(_release)
    OVERLAY.handle = bpy.types.SpaceView3D.draw_handler_add(OVERLAY.draw, (), "WINDOW", "POST_VIEW")


def unregister() -> None:
    if OVERLAY.handle is not None:
        bpy.types.SpaceView3D.draw_handler_remove(OVERLAY.handle, "WINDOW")
        OVERLAY.handle = None
    if _release in bpy.app.handlers.load_pre:
        bpy.app.handlers.load_pre.remove(_release)
    _release()
    bpy.utils.unregister_class(PEEL4D_VIEW3D_PT_overlay_problem)
