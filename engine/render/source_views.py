"""Which views of a rig a clip keeps for image-based colour: few, yet near any direction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ReconstructionError
from .camera import Camera

#: What a point that no chosen view sees costs: the angle, in radians, that one would go for it.
_UNSEEN_COST = 1.0


def directions_to(cameras: Sequence[Camera], centre: np.ndarray) -> np.ndarray:
    """Unit vectors (V, 3) from `centre` (3,) to the cameras; orthographic ones are far away."""
    towards = np.stack(
        [-c.forward if c.orthographic else c.centre - np.asarray(centre) for c in cameras]
    )
    return towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-12)


def nearest_views(directions: np.ndarray, towards: np.ndarray, count: int) -> list[int]:
    """The `count` views (V, 3) whose direction is nearest to `towards` (3,), nearest first.

    Equal angles go by index. Source: 4K4D (Xu et al. 2024), its N' nearest views.
    """
    return np.argsort(-(directions @ towards), kind="stable")[:count].tolist()


def covering_views(
    cameras: Sequence[Camera],
    centre: np.ndarray,
    count: int,
    *,
    seen: np.ndarray | None = None,
) -> list[int]:
    """At most `count` views that leave no direction of the rig, and no point, far from all of them.

    centre: (3,) middle of the subject, world units. seen: (V, N) bool, which camera sees which
    point. Returns ascending indices. The cost of a choice is the root mean square of the angles
    from the cameras of the rig to the nearest chosen one, in radians, plus the share of the points
    that any camera sees and no chosen one does. Views are added one by one, each the best, then
    exchanged while that helps (greedy k-medoids). The same input gives the same choice. Raises
    ReconstructionError.
    """
    if count < 1 or not len(cameras):
        raise ReconstructionError(f"cannot choose {count} of {len(cameras)} source views")
    if len(cameras) <= count:
        return list(range(len(cameras)))
    directions = directions_to(cameras, centre)
    angle = np.arccos(np.clip(directions @ directions.T, -1, 1))  # (V, V)
    if seen is None:
        seen = np.zeros((len(cameras), 0), dtype=bool)
    seen = np.asarray(seen, dtype=bool)[:, np.any(seen, axis=0)]

    def cost(chosen: list[int]) -> float:
        far = np.sqrt(np.square(angle[:, chosen].min(axis=1)).mean())
        unseen = 1 - seen[chosen].any(axis=0).mean() if seen.shape[1] else 0.0
        return float(far + _UNSEEN_COST * unseen)

    chosen: list[int] = []
    rest = list(range(len(cameras)))
    while len(chosen) < count:
        best = min(rest, key=lambda view: cost([*chosen, view]))
        chosen.append(best)
        rest.remove(best)
    now = cost(chosen)
    while True:
        swaps = [
            ([view for view in chosen if view != out] + [into], out, into)
            for out in chosen
            for into in rest
        ]
        best_swap, out, into = min(swaps, key=lambda swap: cost(swap[0]))
        after = cost(best_swap)
        if after >= now - 1e-9:
            return sorted(chosen)
        chosen, now = best_swap, after
        rest = sorted([*(view for view in rest if view != into), out])
