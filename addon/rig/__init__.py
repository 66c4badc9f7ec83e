# SPDX-License-Identifier: GPL-3.0-or-later
"""Capture rigs as Blender cameras, and back."""

from __future__ import annotations

from . import import_capture, movies, operators, panel, preparation, properties
from .export import path_to_reconstruct, views_to_reconstruct

__all__ = ["path_to_reconstruct", "views_to_reconstruct"]

_MODULES = (properties, movies, preparation, import_capture, operators, panel)


def register() -> None:
    for module in _MODULES:
        module.register()


def unregister() -> None:
    for module in reversed(_MODULES):
        module.unregister()
