"""Noise of measured depth: how large it is, and how several views average it out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..machine import in_threads
from ..render.camera import Camera
from .zbuffer import CHUNK, project_finite

#: Points of a view, at most, that tell how far it is off the other views.
SAMPLES = 2048
#: The share of the residuals that are noise for certain; the others may be between two surfaces.
_CORE = 0.2
#: Residuals beyond so many standard deviations are between different surfaces.
_CUT = 3.0
#: Pixels to either side of a pixel over which its depth is smoothed.
_REACH = 3


def disagreement(
    cameras: Sequence[Camera], depths: Sequence[np.ndarray], clouds: Sequence[np.ndarray]
) -> float:
    """Standard deviation of what two views measure of the same surface, world units.

    depths: V arrays (H, W), camera-space z, not finite = unknown. clouds: V arrays (N, 3), points
    that each view measured. Most pairs of a point and a view look at different surfaces, however
    large the subject is: the estimate starts from the smallest residuals and grows, until it is
    the deviation of those within three times itself. 0 where no view sees another one's points.
    """
    samples = [cloud[:: max(1, -(-len(cloud) // SAMPLES))] for cloud in clouds]
    points = np.concatenate(samples) if samples else np.zeros((0, 3))
    owner = np.repeat(np.arange(len(samples)), [len(part) for part in samples])

    def off(begin: int) -> np.ndarray:
        part, found = slice(begin, begin + CHUNK), [np.zeros(0)]
        for index, (camera, depth) in enumerate(zip(cameras, depths, strict=True)):
            which, seen, z = _seen(points[part], camera, depth)
            found.append(np.abs(seen - z[which])[owner[part][which] != index])
        return np.concatenate(found)

    found = in_threads(off, range(0, len(points), CHUNK))
    residual = np.concatenate(found) if found else np.zeros(0)
    residual = residual[np.isfinite(residual)]
    if not residual.size:
        return 0.0
    sigma = float(np.quantile(residual, _CORE))
    for _ in range(30):
        before, sigma = sigma, 1.4826 * float(np.median(residual[residual <= _CUT * sigma]))
        if abs(sigma - before) <= 1e-3 * sigma:
            break
    return sigma


def smoothed(depth: np.ndarray, sigma: float) -> np.ndarray:
    """Each known pixel becomes the mean of those around it, 7 x 7, within 3 sigma of it.

    depth: (H, W) float32; what is not finite stays as it is and is no part of any mean, and neither
    is what lies beyond the border.
    """
    known = np.isfinite(depth)
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    if not len(rows):
        return depth.copy()
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    result = depth.copy()
    result[part] = _smoothed(depth[part], known[part], sigma)
    return result


def _smoothed(depth: np.ndarray, known: np.ndarray, sigma: float) -> np.ndarray:
    height, width = depth.shape
    centre = np.where(known, depth, np.nan)
    padded = np.pad(centre, _REACH, constant_values=np.nan)
    # Differences are added up, not depths: they keep their digits.
    total, count = np.zeros_like(centre), np.zeros_like(centre)
    for row in range(2 * _REACH + 1):
        for column in range(2 * _REACH + 1):
            difference = padded[row : row + height, column : column + width] - centre
            near = np.abs(difference) <= _CUT * sigma  # NaN compares false
            total += np.where(near, difference, 0)
            count += near
    return np.where(known, depth + total / np.maximum(count, 1), depth)


def averaged(
    position: np.ndarray,
    owner: np.ndarray,
    cameras: Sequence[Camera],
    depths: Sequence[np.ndarray],
    tolerance: float,
) -> np.ndarray:
    """Points (N, 3), each moved to the mean of where its own view and those that agree put it.

    owner: (N,) index of the view that measured a point. A view whose depth is within `tolerance` of
    the point's puts it on its own surface, along its own ray.
    """
    total, count = position.copy(), np.ones(len(position))

    def add(begin: int) -> None:
        part = slice(begin, begin + CHUNK)
        for index, (camera, depth) in enumerate(zip(cameras, depths, strict=True)):
            here = position[part]
            which, seen, z = _seen(here, camera, depth)
            agreeing = (np.abs(seen - z[which]) <= tolerance) & (owner[part][which] != index)
            which, seen = which[agreeing], seen[agreeing].astype(np.float64)
            if camera.orthographic:
                moved = here[which] + (seen - z[which])[:, None] * camera.forward
            else:
                ray = here[which] - camera.centre
                moved = camera.centre + ray * (seen / z[which])[:, None]
            total[begin + which] += moved
            count[begin + which] += 1

    in_threads(add, range(0, len(position), CHUNK))
    return total / count[:, None]


def _seen(points, camera, depth):
    """Indices (M,) of the points in the image, the depth map there (M,), and z of all (N,)."""
    u, v, z, valid = project_finite(points, camera)
    which = np.flatnonzero(valid)
    return which, depth[v[which].astype(int), u[which].astype(int)], z
