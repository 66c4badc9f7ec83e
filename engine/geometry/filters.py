"""Neighbour search on a voxel hash and what is built on it: outliers, small components."""

from __future__ import annotations

import numpy as np

from .points import Points
from .voxels import ALL_NEIGHBOURS, components, find, pack

#: Candidate pairs that are held at once in a neighbour search.
_PAIRS = 1 << 21
#: Queries whose neighbouring cells are looked up at once.
_QUERIES = 1 << 15
#: Cells per axis of a search grid; finer ones would gain nothing and could overflow the keys.
_SEARCH_CELLS = 1 << 18


#: Neighbours that are asked whether a part is thin.
_THIN_NEIGHBOURS = 16


def nearest_neighbours(
    points: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k points nearest to each query, exactly.

    points: (N, 3), N >= 1, queries: (Q, 3), finite.
    Returns (distance (Q, k') float64 ascending, index (Q, k') int64), k' = min(k, N). A query that
    is one of the points finds itself at distance 0; which of several points at the same distance is
    taken is not specified.

    The points are hashed into cells about as wide as their spacing; a query looks into its own
    cell and the 26 around it, which is everything within one cell's width. Queries that find fewer
    than k that near look again in cells of twice the size.
    """
    points = np.asarray(points, dtype=np.float64)
    queries = np.asarray(queries, dtype=np.float64)
    k = min(k, len(points))
    distance = np.full((len(queries), k), np.inf)
    index = np.zeros((len(queries), k), dtype=np.int64)
    if not k or not len(queries):
        return distance, index
    low, high = points.min(axis=0), points.max(axis=0)
    extent = float((high - low).max())
    # Points on a surface: n of them are about extent / sqrt(n) apart.
    cell = max(extent / np.sqrt(len(points)), extent / _SEARCH_CELLS)
    remaining = np.arange(len(queries))
    while len(remaining):
        if extent <= cell or len(remaining) * len(points) <= _PAIRS:
            _search_all(points, queries, remaining, distance, index)
            break
        found = _search_cells(points, queries, remaining, low, cell, distance, index)
        remaining = remaining[~found]
        cell *= 2
    return distance, index


def _search_all(points, queries, which, distance, index):
    """Brute force for the queries `which`; writes into distance and index."""
    step = max(1, _PAIRS // len(points))
    for begin in range(0, len(which), step):
        part = which[begin : begin + step]
        squared = ((queries[part, None, :] - points) ** 2).sum(axis=2)
        distance[part], index[part] = _smallest(squared, distance.shape[1])


def _search_cells(points, queries, which, low, cell, distance, index):
    """One round of the hash search; returns which of the queries `which` are answered."""
    k = distance.shape[1]
    cells = np.floor((points - low) / cell).astype(np.int64)
    keys = pack(cells)
    order = np.argsort(keys, kind="stable")
    occupied, start, count = np.unique(keys[order], return_index=True, return_counts=True)
    # Queries far outside find nothing: their cell is clamped to just outside the grid's rim.
    wanted = np.clip(np.floor((queries[which] - low) / cell), -2, cells.max() + 2)
    around = np.concatenate([np.zeros((1, 3), dtype=np.int64), ALL_NEIGHBOURS])
    found = np.zeros(len(which), dtype=bool)
    for begin in range(0, len(which), _QUERIES):
        near = wanted[begin : begin + _QUERIES].astype(np.int64)[:, None, :] + around
        slot = find(occupied, pack(np.maximum(near, -1)))
        slot[(near < -1).any(axis=2)] = -1
        number = np.where(slot >= 0, count[slot], 0)
        total = number.sum(axis=1)
        # Queries with similar numbers of candidates together make tight tables.
        ranked = np.argsort(total, kind="stable")
        ranked = ranked[total[ranked] >= k]
        step = max(1, _PAIRS // max(1, int(total.max(initial=1))))
        for at in range(0, len(ranked), step):
            rows = ranked[at : at + step]
            point, column, row = _candidates(number[rows], start[slot[rows]])
            point = order[point]
            asked = which[begin + rows]
            squared = np.full((len(rows), total[rows[-1]]), np.inf)
            table = np.zeros(squared.shape, dtype=np.int64)
            squared[row, column] = ((queries[asked[row]] - points[point]) ** 2).sum(axis=1)
            table[row, column] = point
            reach, pick = _smallest(squared, k)
            good = reach[:, -1] <= cell
            found[begin + rows[good]] = True
            distance[asked[good]] = reach[good]
            index[asked[good]] = np.take_along_axis(table, pick, axis=1)[good]
    return found


def _candidates(number, first):
    """Flatten ragged lists: row r holds number[r, j] items from first[r, j] on, j = 0..26.

    Returns item, its column in the row and its row, each as long as all lists together.
    """
    total = number.sum(axis=1)
    row = np.repeat(np.arange(len(number)), total)
    column = np.arange(len(row)) - np.repeat(np.cumsum(total) - total, total)
    flat = number.ravel()
    item = np.arange(len(row)) - np.repeat(np.cumsum(flat) - flat - first.ravel(), flat)
    return item, column, row


def _smallest(squared, k):
    """Square roots and columns, both (Q, k), of the k smallest entries per row, ascending."""
    pick = np.argpartition(squared, k - 1, axis=1)[:, :k]
    value = np.take_along_axis(squared, pick, axis=1)
    order = np.argsort(value, axis=1, kind="stable")
    return (
        np.sqrt(np.take_along_axis(value, order, axis=1)),
        np.take_along_axis(pick, order, axis=1),
    )


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
