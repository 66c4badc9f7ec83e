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
    bounds: np.ndarray,
    up: np.ndarray,
    count: int,
    *,
    turns: float = 1.0,
    size: tuple[int, int] | None = None,
) -> list[Camera]:
    """`count` cameras on a circle around a box, at the rig's median distance and height.

    bounds: (2, 3) world box of what is to be seen. The lens is the median one, or wider where the
    box would not fit into the picture. size: (width, height), by default that of the first camera.
    """
    bounds = np.asarray(bounds, dtype=np.float64)
    centre = bounds.mean(axis=0)
    offsets = np.array([camera.centre - centre for camera in cameras])
    height = float(np.median(offsets @ up))
    flat = offsets - np.outer(offsets @ up, up)
    radius = float(np.median(np.linalg.norm(flat, axis=1)))
    x_axis = flat[0] / max(np.linalg.norm(flat[0]), 1e-12)
    y_axis = np.cross(up, x_axis)
    first = cameras[0]
    width, tall = size or (first.width, first.height)
    focal = float(np.median([c.K[1, 1] / c.height for c in cameras])) * tall
    poses = []
    for step in range(count):
        angle = 2 * np.pi * turns * step / count
        position = centre + radius * (np.cos(angle) * x_axis + np.sin(angle) * y_axis) + height * up
        forward = (centre - position) / np.linalg.norm(centre - position)
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        poses.append((R, -R @ position))
    corners = np.array(np.meshgrid(*bounds.T)).reshape(3, -1).T
    for R, t in poses:
        x, y, z = np.abs(R @ corners.T + t[:, None])
        focal = min(focal, 0.48 * width * np.min(z / np.maximum(x, 1e-12)))
        focal = min(focal, 0.48 * tall * np.min(z / np.maximum(y, 1e-12)))
    K = np.array([[focal, 0, width / 2], [0, focal, tall / 2], [0, 0, 1]])
    return [Camera(K, R, t, width, tall) for R, t in poses]
