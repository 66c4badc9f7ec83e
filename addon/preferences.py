# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Python trains, and how much memory may be used."""

from __future__ import annotations


def register() -> None:
    pass


def unregister() -> None:
    pass
