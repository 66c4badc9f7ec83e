# SPDX-License-Identifier: GPL-3.0-or-later
"""Capture rigs as Blender cameras, and back."""

from __future__ import annotations


def register() -> None:
    pass


def unregister() -> None:
    pass
