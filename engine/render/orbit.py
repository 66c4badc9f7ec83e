"""A camera path around a clip, made from the cameras that captured it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .camera import Camera


def mean_up(cameras: Sequence[Camera]) -> np.ndarray:
    """The world's up as the cameras hold it: the mean of their -y axes, unit (3,)."""
    up = -np.mean([camera.R[1] for camera in cameras], axis=0)
    return up / max(np.linalg.norm(up), 1e-12)


def orbit(
    cameras: Sequence[Camera],
    centre: np.ndarray,
    up: np.ndarray,
    count: int,
    *,
    turns: float = 1.0,
    size: tuple[int, int] | None = None,
) -> list[Camera]:
    """`count` cameras on a circle around `centre` (3,), at the rig's median distance and height.

    The lens is the median one. size: (width, height), by default that of the first camera.
    """
    centre = np.asarray(centre, dtype=np.float64)
    offsets = np.array([camera.centre - centre for camera in cameras])
    height = float(np.median(offsets @ up))
    flat = offsets - np.outer(offsets @ up, up)
    radius = float(np.median(np.linalg.norm(flat, axis=1)))
    x_axis = flat[0] / max(np.linalg.norm(flat[0]), 1e-12)
    y_axis = np.cross(up, x_axis)
    first = cameras[0]
    width, tall = size or (first.width, first.height)
    focal = float(np.median([c.K[1, 1] / c.height for c in cameras])) * tall
    K = np.array([[focal, 0, width / 2], [0, focal, tall / 2], [0, 0, 1]])
    path = []
    for step in range(count):
        angle = 2 * np.pi * turns * step / count
        position = centre + radius * (np.cos(angle) * x_axis + np.sin(angle) * y_axis) + height * up
        forward = (centre - position) / np.linalg.norm(centre - position)
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        path.append(Camera(K, R, -R @ position, width, tall))
    return path
