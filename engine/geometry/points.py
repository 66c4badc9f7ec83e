"""The coloured or uncoloured point cloud that the initial geometry stages hand to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ReconstructionError


@dataclass(frozen=True, eq=False)
class Points:
    """N surface points of one frame.

    position: (N, 3) float32, world units.
    spacing: distance between neighbouring points, world units; the natural scale of their radius.
    normal: (N, 3) float32, unit, pointing out of the surface, or zero where the point is a whole
        sheet or thread and has no side; None where normals are unknown.
    view_count: (N,) int32, how many cameras supported the point (hull: saw the voxel; depth: saw
        it at this depth); None where it is unknown.
    """

    position: np.ndarray
    spacing: float
    normal: np.ndarray | None = None
    view_count: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "spacing", float(self.spacing))
        n = len(self.position)
        for name, shape, dtype in (
            ("position", (n, 3), np.float32),
            ("normal", (n, 3), np.float32),
            ("view_count", (n,), np.int32),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            array = np.ascontiguousarray(value, dtype=dtype)
            if array.shape != shape:
                raise ReconstructionError(
                    f"the points' {name} has the shape {array.shape}, expected {shape}"
                )
            object.__setattr__(self, name, array)

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


def mean_by_group(values: np.ndarray, group: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Means (G, C) of the rows of values (N, C); group: (N,) of 0..G-1, size: (G,) their counts."""
    columns = [np.bincount(group, weights=column, minlength=len(size)) for column in values.T]
    return np.stack(columns, axis=1) / size[:, None]


def unit_or_zero(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, 3) at length 1; those shorter than a thousandth, which cancelled out, at 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 1e-3, vectors / np.maximum(length, 1e-3), 0.0)
