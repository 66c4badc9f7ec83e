"""Clustering of feature vectors into a codebook, by moving averages as VQ-VAE does it.

Source: VQ-VAE (van den Oord et al. 2017), appendix A.1; compact_vv: decay 0.8, the emptiest codes
are seeded again.
"""

from __future__ import annotations

import numpy as np

DECAY = 0.8
#: A code is empty below this share of the mean code's weight.
_EMPTY = 0.02


def cluster(
    vectors: np.ndarray,
    weights: np.ndarray,
    count: int,
    *,
    rounds: int = 40,
    decay: float = DECAY,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """vectors: (N, C). weights: (N,) > 0, how much an error of each counts. count: of codes, fewer
    come out when there are fewer vectors. Returns codes (K, C) float32 and the nearest of each
    vector (N,) int64. Every code has at least one vector.
    """
    random = np.random.default_rng(seed)
    vectors = np.asarray(vectors, dtype=np.float64)
    count = min(count, len(vectors))
    if count == 0:
        return np.zeros((0, vectors.shape[1]), np.float32), np.zeros(0, np.int64)
    weights = np.asarray(weights, dtype=np.float64) / max(float(np.mean(weights)), 1e-300)
    codes = _seeds(vectors, weights, count, random)
    count = len(codes)
    mass, total = np.ones(count), codes.copy()
    for turn in range(rounds):
        nearest, error = _nearest(vectors, codes)
        own = np.bincount(nearest, weights, count)
        sums = np.stack([np.bincount(nearest, weights * column, count) for column in vectors.T], 1)
        mass = decay * mass + (1 - decay) * own
        total = decay * total + (1 - decay) * sums
        codes = total / np.maximum(mass, 1e-12)[:, None]
        # A code that (next to) nothing is near to begins anew where the error is large.
        empty = np.flatnonzero(own <= _EMPTY * own.mean())
        if len(empty) and turn < rounds - 5:
            worst = np.argsort(-error * weights)[: len(empty)]
            empty = empty[: len(worst)]
            codes[empty] = vectors[worst]
            mass[empty], total[empty] = weights[worst], codes[empty] * weights[worst, None]
    nearest, _ = _nearest(vectors, codes)
    used, nearest = np.unique(nearest, return_inverse=True)
    return codes[used].astype(np.float32), nearest.reshape(-1)


def _seeds(
    vectors: np.ndarray, weights: np.ndarray, count: int, random: np.random.Generator
) -> np.ndarray:
    """Vectors to begin with, far from each other (k-means++, Arthur and Vassilvitskii 2007)."""
    chosen = [int(random.choice(len(vectors), p=weights / weights.sum()))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, ((vectors - vectors[chosen[-1]]) ** 2).sum(axis=1))
        odds = distance * weights
        if odds.sum() <= 0:  # all vectors are seeds already
            break
        chosen.append(int(random.choice(len(vectors), p=odds / odds.sum())))
    return vectors[chosen].copy()


def _nearest(vectors: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number and squared distance of the nearest code, (N,) each."""
    lengths = (codes**2).sum(axis=1)
    nearest = np.empty(len(vectors), dtype=np.int64)
    error = np.empty(len(vectors))
    for first in range(0, len(vectors), 4096):
        part = vectors[first : first + 4096]
        distance = lengths - 2 * part @ codes.T
        own = distance.argmin(axis=1)
        nearest[first : first + 4096] = own
        error[first : first + 4096] = (
            distance[np.arange(len(part)), own] + (part**2).sum(axis=1)
        ).clip(min=0)
    return nearest, error
