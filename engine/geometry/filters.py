"""Neighbour search and what is built on it: outliers, small components, thin parts."""

from __future__ import annotations

import numpy as np

from .points import Points, mean_by_group, unit_or_zero
from .voxels import components, pack

#: FLANN's number for one k-d tree, which is searched exactly, and points in its leaves.
_KDTREE_SINGLE, _LEAF_POINTS = 4, 10
#: Neighbours that are asked whether a part is thin.
_THIN_NEIGHBOURS = 16


def nearest_neighbours(
    points: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k points nearest to each query, exactly.

    points: (N, 3), N >= 1, queries: (Q, 3), finite.
    Returns (distance (Q, k') float64 ascending, index (Q, k') int64), k' = min(k, N). A query that
    is one of the points finds itself at distance 0; which of several points is taken whose
    distances differ by less than float32 can tell is not specified.
    """
    import cv2

    points = np.asarray(points, dtype=np.float64)
    queries = np.asarray(queries, dtype=np.float64)
    k = min(k, len(points))
    if not k or not len(queries):
        return np.full((len(queries), k), np.inf), np.zeros((len(queries), k), dtype=np.int64)
    # The tree has float32: far from the origin it would lose what is between the points.
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    tree = cv2.flann.Index(
        np.ascontiguousarray(points - middle, dtype=np.float32),
        {"algorithm": _KDTREE_SINGLE, "leaf_max_size": _LEAF_POINTS},
    )
    index, _ = tree.knnSearch(
        np.ascontiguousarray(queries - middle, dtype=np.float32), k, params={"checks": -1}
    )
    index = index.astype(np.int64)
    distance = np.linalg.norm(points[index] - queries[:, None], axis=2)
    order = np.argsort(distance, axis=1, kind="stable")
    return np.take_along_axis(distance, order, axis=1), np.take_along_axis(index, order, axis=1)


def inliers(points: np.ndarray, *, neighbours: int = 5, deviations: float = 5.0) -> np.ndarray:
    """Which points (N, 3) lie among others: bool (N,).

    A point is an outlier where its mean distance to the `neighbours` nearest others exceeds the
    mean of that over all points by more than `deviations` standard deviations (4K4D, method.md
    section 1). It must also be twice that mean: on regular points the deviation is so small that
    the corners of a plane would fall away.
    """
    if len(points) <= neighbours + 1:
        return np.ones(len(points), dtype=bool)
    distance, _ = nearest_neighbours(points, points, neighbours + 1)
    mean = distance[:, 1:].mean(axis=1)
    return mean <= max(mean.mean() + deviations * mean.std(), 2 * mean.mean())


def large_components(points: np.ndarray, cell: float, min_points: int) -> np.ndarray:
    """Which points (N, 3) belong to a connected group of at least `min_points`: bool (N,).

    Points are connected where their cells (of width `cell`) touch, corners included.
    """
    if not len(points):
        return np.zeros(0, dtype=bool)
    p = np.asarray(points, dtype=np.float64)
    keys, owner = np.unique(
        pack(np.floor((p - p.min(axis=0)) / cell).astype(np.int64)), return_inverse=True
    )
    label = components(keys)[owner]
    return np.bincount(label)[label] >= min_points


def remove_outliers(points: Points, *, min_component: int) -> Points:
    """The points without outliers (`inliers`) and without small groups (`large_components`).

    Where everything would be removed the points come back as they are: a subject that small is
    more likely than a frame of nothing but noise.
    """
    kept = points.select(inliers(points.position))
    kept = kept.select(large_components(kept.position, kept.spacing * 1.01, min_component))
    return kept if len(kept) else points


def moved_inwards(points: Points, spacings: float) -> np.ndarray:
    """Positions (N, 3) float32 moved against their normals by `spacings` point spacings.

    A disk centred on a surface sticks out of the silhouette by its radius, so training starts
    closer to its end from within. Points of thin parts, where another side lies within two and a
    half spacings, stay: there the way in is the way out on the far side.
    """
    if points.normal is None or not len(points):
        return points.position
    distance, index = nearest_neighbours(points.position, points.position, _THIN_NEIGHBOURS)
    facing = np.einsum("nkc,nc->nk", points.normal[index], points.normal)
    thin = ((facing < -0.2) & (distance < 2.5 * points.spacing)).any(axis=1)
    step = np.where(thin, 0, spacings * points.spacing).astype(np.float32)
    return points.position - step[:, None] * points.normal


def thinned(points: Points, rgb: np.ndarray, spacing: float) -> tuple[Points, np.ndarray]:
    """One point for every cell of `spacing` that has any: their mean place, side and colour.

    rgb: (N, 3). spacing: world units, larger than that of the points.
    """
    cells = np.floor((points.position - points.position.min(axis=0)) / spacing).astype(np.int64)
    _, group, size = np.unique(pack(cells), return_inverse=True, return_counts=True)
    position = mean_by_group(points.position, group, size)
    normal = None
    if points.normal is not None:
        normal = unit_or_zero(mean_by_group(points.normal, group, size))
    return Points(position, spacing, normal), np.float32(mean_by_group(rgb, group, size))
