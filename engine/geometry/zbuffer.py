"""Depth buffers of point clouds: who hides whom, and what outline the points have."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..render.camera import Camera
from ..render.core import forward
from ..render.settings import PeelSettings

#: Points that are projected at once by those who have many: arrays of this size stay in the cache,
#: and larger ones are new memory from the system every time.
CHUNK = 1 << 13
#: Disks larger than this are drawn at this radius, pixels: a point that fills the picture is too
#: near to say anything about what is behind it.
_MAX_RADIUS = 64.0
#: One layer; disks reach the centre of the pixel that they are in.
_NEAREST = PeelSettings(layers=1, min_radius_px=math.sqrt(0.5))


def project_finite(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, ...]:
    """Project points (N, 3): (u, v, z, valid), each (N,); u = v = -1 where valid is False.

    Valid are the points beyond the near and before the far plane whose pixel is in the image, so u
    and v are always finite and can be used as indices.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        u, v, z = camera.image_of(points)
        valid = (z > camera.near) & (z < camera.far)
        valid &= (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
    unseen = ~valid
    u[unseen] = v[unseen] = -1.0
    return u, v, z, valid


def depth_buffer(position: np.ndarray, radius: float, camera: Camera) -> np.ndarray:
    """Camera-space z of the nearest point per pixel, (H, W) float32, +inf where there is none.

    position: (N, 3). radius: world units, > 0; each point is a disk of this radius that faces the
    camera, and covers at least the pixel that its own centre is in. Points whose centre is
    outside the image are left out.
    """
    buffer = np.full((camera.height, camera.width), np.inf, dtype=np.float32)
    _, _, z, valid = project_finite(position, camera)
    if not valid.any():
        return buffer
    position, z = np.asarray(position, dtype=np.float64)[valid], z[valid]
    focal = np.sqrt(camera.K[0, 0] * camera.K[1, 1])
    largest = _MAX_RADIUS / focal * (np.ones_like(z) if camera.orthographic else z)
    # The core has floats, which hold little of a place that is far from the origin.
    origin = position.mean(axis=0)
    near_origin = replace(camera, t=camera.to_camera(origin))
    nearest = forward(
        (position - origin).astype(np.float32),
        np.minimum(radius, largest).astype(np.float32),
        np.ones(len(position), dtype=np.float32),
        np.zeros((len(position), 3), dtype=np.float32),
        near_origin,
        _NEAREST,
        threads=1,
        want=("layer_ids",),
    )["layer_ids"][..., 0]
    drawn = nearest >= 0
    buffer[drawn] = z[nearest[drawn]]
    return buffer


def silhouette_iou(position: np.ndarray, radius: float, camera: Camera, mask: np.ndarray) -> float:
    """Intersection over union of the points' outline with a mask (H, W) of the same camera.

    1 where both are empty.
    """
    drawn = np.isfinite(depth_buffer(position, radius, camera))
    mask = np.asarray(mask) != 0
    union = np.count_nonzero(drawn | mask)
    return np.count_nonzero(drawn & mask) / union if union else 1.0
