# SPDX-License-Identifier: GPL-3.0-or-later
"""Peel4D in Blender's list of render engines."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from contextlib import suppress

import bpy
from bpy.app.handlers import persistent

from ...engine.errors import PeelError
from . import cg_edges, composite_failure, display_panel, final
from .running import FINAL_RENDERS, undisturbed
from .session import SESSION
from .viewport import Viewport

ENGINE_ID = "PEEL4D"

log = logging.getLogger(__name__)


class Peel4DRenderEngine(bpy.types.RenderEngine):
    """A thin shell over `final` and `viewport`; it turns errors into failed renders.

    An exception that escapes from here would leave a black frame and a successful exit. Blender
    makes one object per final render and one per viewport.
    """

    bl_idname = ENGINE_ID
    bl_label = "Peel4D"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._picture: final.FinalPicture | None = None
        self._failed = False
        self.failure = ""
        self._viewport: Viewport | None = None
        self._text: str | None = None

    def update_render_passes(self, scene=None, renderlayer=None) -> None:
        self.register_pass(scene, renderlayer, "Combined", 4, "RGBA", "COLOR")
        if renderlayer.use_pass_z:
            self.register_pass(scene, renderlayer, "Depth", 1, "Z", "VALUE")
        if not FINAL_RENDERS.leaving and scene.peel4d.is_composite:
            for name in (cg_edges.OUTSIDE, cg_edges.EDGE):
                self.register_pass(scene, renderlayer, name, 1, "X", "VALUE")

    def update(self, data=None, depsgraph=None) -> None:
        """Blender holds its data still during this call, but not during `render`."""
        self._picture, self._failed = None, True
        with _Reported(self):
            if FINAL_RENDERS.leaving:
                raise PeelError("was disabled", hint="Enable it and render again")
            self._picture = final.read(self, depsgraph)
            self._failed = False

    def test_break(self) -> bool:
        return FINAL_RENDERS.leaving or super().test_break()

    def render(self, depsgraph) -> None:
        if not self._failed:  # else `update` has reported why
            self._failed = True
            with FINAL_RENDERS.one(), _Reported(self):
                final.draw(self, self._picture)
                if FINAL_RENDERS.leaving:
                    raise PeelError("was disabled", hint="Enable it and render again")
                self._failed = False
        if self._failed and not FINAL_RENDERS.leaving and depsgraph.scene.peel4d.is_composite:
            composite_failure.announce(self, self.failure)

    def view_update(self, context, depsgraph) -> None:
        if FINAL_RENDERS.leaving:
            return  # our properties are gone
        begin = time.perf_counter()
        viewport = self._viewport_object()
        with undisturbed():
            viewport.update(depsgraph, context.space_data)
        viewport.ui_seconds.append(time.perf_counter() - begin)

    def view_draw(self, context, depsgraph) -> None:
        if FINAL_RENDERS.leaving:
            return  # our properties are gone
        begin = time.perf_counter()
        viewport = self._viewport_object()
        with undisturbed():
            text = viewport.draw(context, depsgraph)
        if text != self._text:
            self.update_stats("Peel4D" if text else "", text)
            self._text = text
        viewport.ui_seconds.append(time.perf_counter() - begin)

    def _viewport_object(self) -> Viewport:
        if self._viewport is None:
            self._viewport = Viewport(SESSION, _redraw_of(self))
            SESSION.viewports.add(self._viewport)
            # The drawing thread knows the viewport, too; it must not draw for a closed region.
            weakref.finalize(self, self._viewport.close)
        return self._viewport


def _redraw_of(engine: bpy.types.RenderEngine) -> Callable[[], None]:
    """Tags the engine's region, from any thread; nothing happens when the engine is gone."""
    reference = weakref.ref(engine)

    def redraw() -> None:
        alive = reference()
        if alive is not None:
            with suppress(ReferenceError):  # Blender has removed it, Python has not yet
                alive.tag_redraw()

    return redraw


class _Reported:
    """Turns any exception of its block into an error report, which makes the render fail."""

    def __init__(self, engine: bpy.types.RenderEngine):
        self._engine = engine

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        if isinstance(error, PeelError):
            text = str(error)
        else:
            # A fault of ours: the traceback is what a bug report needs.
            log.error("rendering failed", exc_info=(kind, error, traceback))
            text = f"internal error: {kind.__name__}: {error}"
        self._engine.failure = text
        self._engine.report({"ERROR"}, f"Peel4D: {text}")
        return True


@persistent
def _release_session(*_args) -> None:
    SESSION.release()


def _unregister_class() -> None:
    bpy.utils.unregister_class(Peel4DRenderEngine)


def register() -> None:
    FINAL_RENDERS.begin()
    if not Peel4DRenderEngine.is_registered:  # a render may have kept it
        bpy.utils.register_class(Peel4DRenderEngine)
    display_panel.register()
    bpy.app.handlers.load_pre.append(_release_session)


def unregister() -> None:
    if _release_session in bpy.app.handlers.load_pre:
        bpy.app.handlers.load_pre.remove(_release_session)
    display_panel.unregister()
    FINAL_RENDERS.end(_unregister_class)
    SESSION.release()
