# SPDX-License-Identifier: GPL-3.0-or-later
"""The background process that reconstructs."""

from __future__ import annotations


def register() -> None:
    pass


def unregister() -> None:
    pass
