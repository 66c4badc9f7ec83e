"""Sparse voxel sets: integer cells packed into sorted 64-bit keys."""

from __future__ import annotations

import numpy as np

#: Cells per axis that a key can hold; one more on either side is kept free for neighbours.
MAX_CELLS = (1 << 20) - 2

#: The 6 neighbours that share a face, and all 26.
FACE_NEIGHBOURS = np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
ALL_NEIGHBOURS = np.array(
    [d for d in np.ndindex(3, 3, 3) if d != (1, 1, 1)], dtype=np.int64
) - np.int64(1)

_BITS = 21


def pack(cells: np.ndarray) -> np.ndarray:
    """Cells (..., 3) int64 with -1 <= c <= MAX_CELLS -> keys (...) int64 in lexicographic order."""
    c = np.asarray(cells, dtype=np.int64) + 1
    return (c[..., 0] << (2 * _BITS)) | (c[..., 1] << _BITS) | c[..., 2]


def key_step(offset: np.ndarray) -> int:
    """What has to be added to a key to get to the neighbour `offset` (3,)."""
    return int((offset[0] << (2 * _BITS)) + (offset[1] << _BITS) + offset[2])


def find(sorted_keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of every wanted key in sorted unique keys, -1 where it is absent; shape of `wanted`."""
    if not len(sorted_keys):
        return np.full(np.shape(wanted), -1, dtype=np.int64)
    index = np.searchsorted(sorted_keys, wanted)
    index[index == len(sorted_keys)] = 0
    return np.where(sorted_keys[index] == wanted, index, -1)


def components(keys: np.ndarray) -> np.ndarray:
    """Labels (N,) of the 26-connected components of sorted unique keys (N,).

    A label is the smallest index in its component.
    """
    first, second = [], []
    for offset in ALL_NEIGHBOURS[13:]:  # one of each opposite pair
        neighbour = find(keys, keys + key_step(offset))
        have = np.flatnonzero(neighbour >= 0)
        first.append(have)
        second.append(neighbour[have])
    a, b = np.concatenate(first), np.concatenate(second)
    label = np.arange(len(keys))
    while True:
        low, high = np.minimum(label[a], label[b]), np.maximum(label[a], label[b])
        open_edges = low < high
        if not open_edges.any():
            return label
        # Hook the larger root onto the smaller, then shorten every path to its root.
        np.minimum.at(label, high[open_edges], low[open_edges])
        while True:
            shorter = label[label]
            if np.array_equal(shorter, label):
                break
            label = shorter
