# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips over the pictures of Cycles and EEVEE."""

from __future__ import annotations

import bpy
from bpy.app.handlers import persistent

from .operators import CLASSES
from .scene import clip_scene_of, synchronise


@persistent
def _synchronise(scene: bpy.types.Scene, *_args: object) -> None:
    """Before a picture is rendered, and whenever something changes."""
    clips = scene if scene.peel4d.is_composite else clip_scene_of(scene)
    if clips is not None:
        synchronise(clips)


def _handlers() -> tuple[list, ...]:
    handlers = bpy.app.handlers
    return handlers.render_pre, handlers.depsgraph_update_post


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    for handlers in _handlers():
        handlers.append(_synchronise)


def unregister() -> None:
    for handlers in _handlers():
        if _synchronise in handlers:
            handlers.remove(_synchronise)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
