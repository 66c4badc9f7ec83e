# SPDX-License-Identifier: GPL-3.0-or-later
"""Peel4D: multi-view video becomes a 4D scene inside Blender.

As a Blender extension this package hands over to `addon`; as a Python package it holds `engine`.
Nothing is imported here, so that `import peel4d` costs nothing and needs no bpy.
"""

__version__ = "0.1.0"


def register() -> None:
    """Called by Blender when the extension is enabled."""
    from . import addon

    addon.register()


def unregister() -> None:
    """Called by Blender when the extension is disabled."""
    from . import addon

    addon.unregister()
