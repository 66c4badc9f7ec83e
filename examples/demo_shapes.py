"""Surfaces of the demo scene: grids of points made by turning a profile or sweeping a section.

Everything the demo shows is one kind of surface, a (rows, columns, 3) grid whose columns may close
into a ring. Numpy only; `demo_workshop.py` makes Blender meshes of it. Lengths are metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def lathe(profile: np.ndarray, segments: int = 96) -> np.ndarray:
    """Turn a profile (n, 2) of (radius, z) around the z axis: (n, segments, 3), closed columns."""
    profile = np.asarray(profile, dtype=np.float64)
    angle = 2 * np.pi * np.arange(segments) / segments
    radius, z = profile[:, :1], profile[:, 1:]
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    return np.stack([x, y, np.broadcast_to(z, x.shape)], axis=-1)


def sweep(
    path: np.ndarray, width: np.ndarray, thickness: np.ndarray, side: np.ndarray, sides: int = 10
) -> np.ndarray:
    """Carry an ellipse along a path: (n, sides, 3), closed columns.

    path: (n, 3). width, thickness: full axes of the ellipse, (n,) or scalars. side: (3,) or (n, 3),
    the direction of the width, made perpendicular to the path here.
    """
    path = np.asarray(path, dtype=np.float64)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.broadcast_to(np.asarray(side, dtype=np.float64), path.shape)
    side = side - tangent * (side * tangent).sum(axis=1, keepdims=True)
    side = side / np.linalg.norm(side, axis=1, keepdims=True)
    normal = np.cross(tangent, side)
    angle = 2 * np.pi * np.arange(sides) / sides
    half_width = np.broadcast_to(width, len(path))[:, None, None] / 2
    half_thickness = np.broadcast_to(thickness, len(path))[:, None, None] / 2
    return (
        path[:, None]
        + half_width * np.cos(angle)[None, :, None] * side[:, None]
        + half_thickness * np.sin(angle)[None, :, None] * normal[:, None]
    )


def tube(path: np.ndarray, diameter: float | np.ndarray, sides: int = 10) -> np.ndarray:
    """A round wire along a path (n, 3) with closed, rounded ends: (n + 2, sides, 3)."""
    path = np.asarray(path, dtype=np.float64)
    diameter = np.array(np.broadcast_to(diameter, len(path)), dtype=np.float64)
    # Any side will do for a circle as long as it is never parallel to the path.
    side = np.eye(3)[int(np.argmin(np.ptp(path, axis=0)))]
    body = sweep(path, diameter, diameter, side, sides)
    return np.concatenate(
        [np.repeat(path[:1, None], sides, axis=1), body, np.repeat(path[-1:, None], sides, axis=1)]
    )


def ellipsoid(radii: tuple[float, float, float], rows: int = 33, segments: int = 64) -> np.ndarray:
    """An ellipsoid around the origin with its poles on z: (rows, segments, 3), closed columns."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows)
    profile = np.stack([np.cos(latitude).clip(1e-5), np.sin(latitude)], axis=1)
    return lathe(profile, segments) * np.asarray(radii)


def torus(radius: float, tube_radius: float, segments: int = 96, sides: int = 16) -> np.ndarray:
    """A ring around z: (sides + 1, segments, 3), closed columns; the last row repeats the first."""
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    profile = np.stack([radius + tube_radius * np.cos(angle), tube_radius * np.sin(angle)], axis=1)
    return lathe(profile, segments)


def bezier(control: np.ndarray, count: int) -> np.ndarray:
    """Points (count, 3) on the Bezier curve of control points (k, 3), any degree (de Casteljau)."""
    s = np.linspace(0, 1, count)[:, None, None]
    points = np.broadcast_to(np.asarray(control, dtype=np.float64), (count, len(control), 3))
    while points.shape[1] > 1:
        points = points[:, :-1] * (1 - s) + points[:, 1:] * s
    return points[:, 0]


@dataclass(frozen=True, eq=False)
class Surface:
    """What a mesh is made of: vertices (v, 3), faces (f, 4) int32, uv (f * 4, 2) float32.

    UV are per face corner, not per vertex: the last column of a closed grid runs to u = 1 although
    it shares its vertices with the first, so patterns have no smeared seam and shading stays smooth
    across it.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray


def closed_surface(grid: np.ndarray) -> Surface:
    """The surface of a (rows, columns, 3) grid whose columns close into a ring.

    u runs around in [0, 1], v along the rows in [0, 1].
    """
    rows, columns, _ = grid.shape
    return Surface(grid.reshape(-1, 3), *_cells(rows - 1, columns, columns))


def _cells(rows: int, columns: int, ring: int) -> tuple[np.ndarray, np.ndarray]:
    """(faces, uv) of rows x columns cells over vertices that stand in rows of `ring`."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    right = (column + 1) % ring
    faces = np.stack(
        [
            row * ring + column,
            row * ring + right,
            (row + 1) * ring + right,
            (row + 1) * ring + column,
        ],
        axis=1,
    ).astype(np.int32)
    corners = np.stack(
        [
            np.stack([column, column + 1, column + 1, column], axis=1) / columns,
            np.stack([row, row, row + 1, row + 1], axis=1) / rows,
        ],
        axis=-1,
    )
    return faces, corners.reshape(-1, 2).astype(np.float32)


def open_surface(grid: np.ndarray, size: tuple[float, float] = (1.0, 1.0)) -> Surface:
    """The surface of a (rows, columns, 3) grid with a border; u and v run to `size`."""
    rows, columns, _ = grid.shape
    faces, uv = _cells(rows - 1, columns - 1, columns)
    return Surface(grid.reshape(-1, 3), faces, uv * np.float32(size))


def joined(surfaces: list[Surface]) -> Surface:
    """Several surfaces as one mesh."""
    starts = np.cumsum([0] + [len(surface.vertices) for surface in surfaces[:-1]])
    return Surface(
        np.concatenate([surface.vertices for surface in surfaces]),
        np.concatenate([s.faces + start for s, start in zip(surfaces, starts, strict=True)]),
        np.concatenate([surface.uv for surface in surfaces]),
    )
