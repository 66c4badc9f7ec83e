"""A part of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """What is drawn of the full frame: width x height pixels, the top-left one at (x, y)."""

    x: int
    y: int
    width: int
    height: int

    def lies_in(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape is a picture (H, W, 3) that holds all of the window."""
        if len(shape) != 3 or shape[2] != 3:
            return False
        height, width = shape[:2]
        return 0 <= self.x <= width - self.width and 0 <= self.y <= height - self.height
