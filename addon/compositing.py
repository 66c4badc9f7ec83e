# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips over the pictures of Cycles and EEVEE."""

from __future__ import annotations


def register() -> None:
    pass


def unregister() -> None:
    pass
