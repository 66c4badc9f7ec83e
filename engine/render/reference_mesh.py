"""Triangles as the reference sees them: float64, every triangle against every pixel.

Two-dimensional homogeneous coordinates (Olano and Greer 1997): a corner seen at (u, v) with depth w
is the vector (u w, v w, w), and the edge functions are cross products of these, so a triangle that
reaches behind the camera needs no clipping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .mesh import Mesh


@dataclass(frozen=True, eq=False)
class MeshPlanes:
    """The nearest triangle of every pixel.

    z (H, W): camera depth, +inf where there is none. rgb (H, W, 3). id (H, W) int64: of its mesh.
    shown (H, W) bool: there is one and it is no holdout.
    """

    z: np.ndarray
    rgb: np.ndarray
    id: np.ndarray
    shown: np.ndarray


@dataclass(frozen=True, eq=False)
class ScreenTriangle:
    """One triangle seen by one camera.

    edges (3, 3): e_i, the edge opposite corner i; e_i . (x, y, 1) >= 0 inside. determinant: > 0.
    z (3,): camera depth of the corners. rgb (3, 3): colour of the corners.
    """

    mesh: Mesh
    edges: np.ndarray
    determinant: float
    z: np.ndarray
    rgb: np.ndarray

    def edge_values(self, camera: Camera) -> np.ndarray:
        """The three edge functions at the pixel centres, (3, H, W)."""
        x = np.arange(camera.width)[None, :] + 0.5
        y = np.arange(camera.height)[:, None] + 0.5
        return np.stack([e[0] * x + e[1] * y + e[2] for e in self.edges])

    def depth(self, edge_values: np.ndarray, camera: Camera) -> np.ndarray:
        """Camera z (H, W) of the triangle's plane, +inf where a camera with a centre sees none."""
        if camera.orthographic:
            return np.einsum("ihw,i->hw", edge_values, self.z) / self.determinant
        total = edge_values.sum(axis=0)
        positive = np.where(total > 0, total, 1)
        return np.where(total > 0, self.determinant / positive, np.inf)


def mesh_planes(meshes: Sequence[Mesh], camera: Camera) -> MeshPlanes:
    """The nearest triangle of every pixel; of several at the same depth the first."""
    shape = (camera.height, camera.width)
    planes = MeshPlanes(
        np.full(shape, np.inf), np.zeros((*shape, 3)), np.full(shape, -1), np.zeros(shape, bool)
    )
    for triangle in screen_triangles(meshes, camera):
        values = triangle.edge_values(camera)
        z = triangle.depth(values, camera)
        nearer = (values >= 0).all(axis=0) & within(z, camera) & (z < planes.z)
        values = values[:, nearer]
        rgb = values.T @ triangle.rgb / values.sum(axis=0)[:, None]
        planes.z[nearer] = z[nearer]
        planes.rgb[nearer] = np.clip(rgb, 0, 1)
        planes.id[nearer] = triangle.mesh.id
        planes.shown[nearer] = not triangle.mesh.holdout
    return planes


def within(z: np.ndarray, camera: Camera) -> np.ndarray:
    return (z > np.float32(camera.near)) & (z < np.float32(camera.far))


def screen_triangles(meshes: Sequence[Mesh], camera: Camera) -> Iterator[ScreenTriangle]:
    """The triangles of all meshes in order, without those that are degenerate or not finite."""
    for mesh in meshes:
        vectors, z = screen_vertices(mesh, camera)
        for face, corners in enumerate(mesh.triangles):
            with np.errstate(over="ignore", invalid="ignore"):
                v = vectors[corners]
                edges = np.cross(np.roll(v, -1, axis=0), np.roll(v, -2, axis=0))
                determinant = v[0] @ edges[0]
            if determinant == 0 or not np.isfinite(determinant):
                continue
            if determinant < 0:
                edges, determinant = -edges, -determinant
            yield ScreenTriangle(mesh, edges, determinant, z[corners], corner_colors(mesh, face))


def screen_vertices(mesh: Mesh, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """(u w, v w, w) of all vertices, (V, 3), and their camera depth, (V,).

    Written out, and not as a matrix product, so that equal vertices give equal numbers wherever
    they stand: neighbours must see the edge that they share at the very same place.
    """
    p = mesh.vertices.astype(np.float64)
    (fx, skew, cx), (fy, cy) = camera.K[0], camera.K[1, 1:]
    with np.errstate(over="ignore", invalid="ignore"):
        x, y, z = (
            row[0] * p[:, 0] + row[1] * p[:, 1] + row[2] * p[:, 2] + shift
            for row, shift in zip(camera.R, camera.t, strict=True)
        )
        w = np.ones(len(p)) if camera.orthographic else z
        return np.stack([fx * x + skew * y + cx * w, fy * y + cy * w, w], axis=1), z


def corner_colors(mesh: Mesh, face: int) -> np.ndarray:
    """Colours of the corners of a triangle, (3, 3) float64; of a holdout nothing that matters."""
    if mesh.color is None:
        return np.zeros((3, 3))
    color = mesh.color.astype(np.float64)
    if mesh.per == "vertex":
        return color[mesh.triangles[face]]
    return np.tile(color if mesh.per is None else color[face], (3, 1))


def doubtful_mesh_pixels(
    meshes: Sequence[Mesh], camera: Camera, *, pixels: float, ulp: float
) -> np.ndarray:
    """Pixels (H, W) bool in which rounding may decide which triangle is seen.

    An edge passes within `pixels` of the centre, two triangles are within `ulp` units in the last
    place of float32 without being at the same depth, or one is as near to the near or far plane.
    """
    doubtful = np.zeros((camera.height, camera.width), dtype=bool)
    nearest = np.full(doubtful.shape, np.inf)
    for triangle in screen_triangles(meshes, camera):
        values = triangle.edge_values(camera)
        slope = np.hypot(triangle.edges[:, 0], triangle.edges[:, 1])
        # An edge at infinity is far from every pixel, on whichever side it is.
        distance = values / np.where(slope > 0, slope, np.finfo(float).tiny)[:, None, None]
        doubtful |= np.abs(distance.min(axis=0)) < pixels
        z = triangle.depth(values, camera)
        inside = (values >= 0).all(axis=0) & np.isfinite(z)
        for limit in (camera.near, camera.far):
            doubtful |= inside & close(z, np.float64(np.float32(limit)), ulp)
        covered = inside & within(z, camera)
        doubtful |= covered & (z != nearest) & close(z, nearest, ulp)
        nearest[covered] = np.minimum(nearest, z)[covered]
    return doubtful


def close(a: np.ndarray, b: np.ndarray, ulp: float) -> np.ndarray:
    """a and b are at most so many units in the last place of float32 apart (equal ones too)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.abs(a - b) <= ulp * np.spacing(np.abs(a).astype(np.float32))
