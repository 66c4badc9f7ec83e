"""A part of a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """What is drawn of the full frame: width x height pixels, the top-left one at (x, y)."""

    x: int
    y: int
    width: int
    height: int
