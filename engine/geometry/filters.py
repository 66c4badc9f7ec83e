"""Neighbour search on a voxel hash and what is built on it: outliers, small components."""

from __future__ import annotations

import numpy as np

from .points import Points
from .voxels import ALL_NEIGHBOURS, components, find, key_step, pack

#: Candidate pairs that are held at once in a neighbour search.
_PAIRS = 1 << 21
#: Cells per axis of a search grid; finer ones would gain nothing and could overflow the keys.
_SEARCH_CELLS = 1 << 18


def nearest_neighbours(
    points: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k points nearest to each query, exactly.

    points: (N, 3), N >= 1, queries: (Q, 3), finite.
    Returns (distance (Q, k') float64 ascending, index (Q, k') int64), k' = min(k, N). A query that
    is one of the points finds itself at distance 0; ties are broken by index.

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
    k = distance.shape[1]
    step = max(1, _PAIRS // len(points))
    for begin in range(0, len(which), step):
        part = which[begin : begin + step]
        squared = ((queries[part, None, :] - points) ** 2).sum(axis=2)
        order = np.argsort(squared, axis=1, kind="stable")[:, :k]
        index[part] = order
        distance[part] = np.sqrt(np.take_along_axis(squared, order, axis=1))


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
    average = max(1, int(27 * len(points) / len(occupied)))
    step = max(1, _PAIRS // average)
    for begin in range(0, len(which), step):
        near = wanted[begin : begin + step].astype(np.int64)[:, None, :] + around
        slot = find(occupied, pack(np.maximum(near, -1)))
        slot[(near < -1).any(axis=2)] = -1
        number = np.where(slot >= 0, count[slot], 0)
        first = start[slot]
        # Flatten the ragged lists of candidates: pair -> (query, point).
        total = number.sum(axis=1)
        query = np.repeat(np.arange(len(near)), total)
        number, first = number.ravel(), first.ravel()
        ends = np.cumsum(number)
        offset = np.arange(ends[-1]) - np.repeat(ends - number, number)
        point = order[np.repeat(first, number) + offset]
        part = which[begin : begin + step]
        squared = ((queries[part[query]] - points[point]) ** 2).sum(axis=1)
        rank = np.lexsort((point, squared, query))
        begins = np.cumsum(total) - total
        full = np.flatnonzero(total >= k)
        pick = rank[begins[full][:, None] + np.arange(k)]
        reach = np.sqrt(squared[pick])
        good = reach[:, -1] <= cell
        found[begin + full[good]] = True
        distance[part[full[good]]] = reach[good]
        index[part[full[good]]] = point[pick[good]]
    return found


def inliers(points: np.ndarray, *, neighbours: int = 5, deviations: float = 5.0) -> np.ndarray:
    """Which points (N, 3) lie among others: bool (N,).

    A point is an outlier where its mean distance to the `neighbours` nearest others exceeds the
    mean of that over all points by more than `deviations` standard deviations (4K4D, method.md
    section 1).
    """
    if len(points) <= neighbours + 1:
        return np.ones(len(points), dtype=bool)
    distance, _ = nearest_neighbours(points, points, neighbours + 1)
    mean = distance[:, 1:].mean(axis=1)
    # The slack keeps exactly regular points, whose deviation is rounding noise.
    return mean <= mean.mean() * (1 + 1e-6) + deviations * mean.std()


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
