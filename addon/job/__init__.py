# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstruct 4D: the background process, and the Python that it runs in."""

from __future__ import annotations

import bpy

from . import operators, panels, properties
from .session import SESSION, before_load


def register() -> None:
    properties.register()
    operators.register()
    panels.register()
    bpy.app.handlers.load_pre.append(before_load)


def unregister() -> None:
    bpy.app.handlers.load_pre.remove(before_load)
    SESSION.end()
    panels.unregister()
    operators.unregister()
    properties.unregister()
