# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that Blender sees. This module only registers."""

from __future__ import annotations

import atexit

from . import (
    blend_paths,
    cameras,
    clip_object,
    composite,
    import_clip,
    job,
    pack_clip,
    panels,
    preferences,
    properties,
    rig,
)
from .render import engine, overlay

_MODULES = (
    preferences,
    properties,
    engine,
    overlay,
    cameras,
    blend_paths,
    import_clip,
    rig,
    job,
    composite,
    pack_clip,
    clip_object,
    panels,
)


def register() -> None:
    for module in _MODULES:
        module.register()
    # bpy as a Python module does not disable add-ons when it ends; a render engine that is still
    # registered then crashes it (4.2) or hangs it (4.5).
    atexit.register(unregister)


def unregister() -> None:
    atexit.unregister(unregister)
    if not engine.Peel4DRenderEngine.is_registered:
        return  # at the end of bpy as a module both Python and Blender ask for it
    for module in reversed(_MODULES):
        module.unregister()
