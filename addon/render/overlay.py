# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips in viewports of other engines and shading modes."""

from __future__ import annotations


def register() -> None:
    pass


def unregister() -> None:
    pass
