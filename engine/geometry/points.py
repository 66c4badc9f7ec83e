"""The coloured or uncoloured point cloud that the initial geometry stages hand to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Points:
    """N surface points of one frame.

    position: (N, 3) float32, world units.
    spacing: distance between neighbouring points, world units; the natural scale of their radius.
    normal: (N, 3) float32, unit, pointing out of the surface; None where it is unknown.
    view_count: (N,) int32, how many cameras supported the point (hull: saw the voxel; depth: saw
        it at this depth); None where it is unknown.
    """

    position: np.ndarray
    spacing: float
    normal: np.ndarray | None = None
    view_count: np.ndarray | None = None

    def __post_init__(self) -> None:
        position = np.ascontiguousarray(self.position, dtype=np.float32).reshape(-1, 3)
        object.__setattr__(self, "position", position)
        object.__setattr__(self, "spacing", float(self.spacing))
        if self.normal is not None:
            normal = np.ascontiguousarray(self.normal, dtype=np.float32).reshape(len(position), 3)
            object.__setattr__(self, "normal", normal)
        if self.view_count is not None:
            count = np.ascontiguousarray(self.view_count, dtype=np.int32).reshape(len(position))
            object.__setattr__(self, "view_count", count)

    def __len__(self) -> int:
        return len(self.position)

    def select(self, which: np.ndarray) -> Points:
        """The points that a boolean mask (N,) or an index array picks."""
        return Points(
            self.position[which],
            self.spacing,
            None if self.normal is None else self.normal[which],
            None if self.view_count is None else self.view_count[which],
        )
