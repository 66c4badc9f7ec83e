"""All triangles of a picture, as the core takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .mesh import Mesh


@dataclass(frozen=True, eq=False)
class Triangles:
    """position (V, 3) float32 world, index (F, 3) int32, color (V, 3) float32, holdout (F,) uint8,
    id (F,) int32; contiguous."""

    position: np.ndarray
    index: np.ndarray
    color: np.ndarray
    holdout: np.ndarray
    id: np.ndarray


def join_meshes(meshes: Sequence[Mesh]) -> Triangles | None:
    """The triangles of all meshes in their order; None without any."""
    parts = [_triangles(mesh) for mesh in meshes if len(mesh.triangles)]
    if not parts:
        return None
    starts = np.cumsum([0] + [len(part.position) for part in parts[:-1]])
    index = [part.index + np.int32(start) for part, start in zip(parts, starts, strict=True)]
    return Triangles(
        np.concatenate([part.position for part in parts]),
        np.concatenate(index),
        np.concatenate([part.color for part in parts]),
        np.concatenate([part.holdout for part in parts]),
        np.concatenate([part.id for part in parts]),
    )


def _triangles(mesh: Mesh) -> Triangles:
    position, index, count = mesh.vertices, mesh.triangles, len(mesh.triangles)
    if mesh.color is None:
        color = np.zeros((len(position), 3), np.float32)
    elif mesh.color.ndim == 1:
        color = np.broadcast_to(mesh.color, (len(position), 3))
    elif mesh.per == "triangle":
        # A vertex has one colour in the core, so triangles of different colours share none.
        position = position[index].reshape(-1, 3)
        index = np.arange(3 * count, dtype=np.int32).reshape(-1, 3)
        color = np.repeat(mesh.color, 3, axis=0)
    else:
        color = mesh.color
    return Triangles(
        np.ascontiguousarray(position, np.float32),
        np.ascontiguousarray(index, np.int32),
        np.ascontiguousarray(color, np.float32),
        np.full(count, mesh.color is None, np.uint8),
        np.full(count, mesh.id, np.int32),
    )
