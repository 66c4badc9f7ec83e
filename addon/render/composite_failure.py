# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures of a picture that another scene's compositor has asked for.

Blender prints what the engine reports about such a picture and goes on: the render succeeds, with
the clips missing from it. Nobody must take that for a result.
"""

from __future__ import annotations

import os
import shutil
import sys

import bpy
import numpy as np

from .session import SESSION

#: Scene-linear magenta, Blender's own sign for what is missing.
_MISSING = (1.0, 0.0, 1.0, 1.0)


def announce(engine: bpy.types.RenderEngine, text: str) -> None:
    """Inside `RenderEngine.render`: end a batch render, else cover the picture and tell why."""
    if bpy.app.background and bpy.app.binary_path:  # which is empty where bpy is a module
        print(f"Error: Peel4D: {text}. The composite would lack its clips: ending", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        shutil.rmtree(bpy.app.tempdir, ignore_errors=True)
        os._exit(1)  # in the middle of a render there is no other way out
    result = engine.begin_result(0, 0, engine.resolution_x, engine.resolution_y)
    pixels = np.empty((result.resolution_y * result.resolution_x, 4), np.float32)
    pixels[:] = _MISSING
    result.layers[0].passes["Combined"].rect.foreach_set(pixels.ravel())
    engine.end_result(result)
    if not bpy.app.background and SESSION.told_failure != text:  # once for an animation
        SESSION.told_failure = text
        bpy.app.timers.register(lambda: _pop_up(text))


def _pop_up(text: str) -> None:
    """On the main thread, where there is a window."""

    def draw(popup: bpy.types.UIPopupMenu, _context: bpy.types.Context) -> None:
        for line in text.split(". "):
            popup.layout.label(text=line)

    manager = bpy.context.window_manager
    if manager.windows:
        with bpy.context.temp_override(window=manager.windows[0]):
            manager.popup_menu(draw, title="Peel4D: the clips are missing", icon="ERROR")
