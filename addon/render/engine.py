# SPDX-License-Identifier: GPL-3.0-or-later
"""Peel4D in Blender's list of render engines."""

from __future__ import annotations

import logging

import bpy
from bpy.app.handlers import persistent

from ...engine.errors import PeelError
from . import final
from .session import SESSION

ENGINE_ID = "PEEL4D"

log = logging.getLogger(__name__)


class Peel4DRenderEngine(bpy.types.RenderEngine):
    """A thin shell: `final` reads and draws, this class turns errors into failed renders.

    An exception that escapes from here would leave a black frame and a successful exit.
    """

    bl_idname = ENGINE_ID
    bl_label = "Peel4D"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._picture: final.FinalPicture | None = None
        self._failed = False

    def update_render_passes(self, scene=None, renderlayer=None) -> None:
        self.register_pass(scene, renderlayer, "Combined", 4, "RGBA", "COLOR")
        if renderlayer.use_pass_z:
            self.register_pass(scene, renderlayer, "Depth", 1, "Z", "VALUE")

    def update(self, data=None, depsgraph=None) -> None:
        """Blender holds its data still during this call, but not during `render`."""
        self._picture, self._failed = None, True
        with _Reported(self):
            self._picture = final.read(self, depsgraph)
            self._failed = False

    def render(self, depsgraph) -> None:
        if self._failed:
            return  # `update` has reported why
        with _Reported(self):
            final.draw(self, self._picture)


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
        self._engine.report({"ERROR"}, f"Peel4D: {text}")
        return True


@persistent
def _release_session(*_args) -> None:
    SESSION.release()


def register() -> None:
    bpy.utils.register_class(Peel4DRenderEngine)
    bpy.app.handlers.load_pre.append(_release_session)


def unregister() -> None:
    if _release_session in bpy.app.handlers.load_pre:
        bpy.app.handlers.load_pre.remove(_release_session)
    bpy.utils.unregister_class(Peel4DRenderEngine)
    SESSION.release()
