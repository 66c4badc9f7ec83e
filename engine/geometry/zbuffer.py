"""Depth buffers of point clouds: who hides whom, and what outline the points have."""

from __future__ import annotations

import numpy as np

from ..render.camera import Camera

#: Pixel writes that are held at once, and points that are projected at once by those who have many:
#: arrays of this size stay in the cache, and larger ones are new memory from the system every time.
_WRITES, CHUNK = 1 << 14, 1 << 13
#: Disks larger than this are drawn at this radius, pixels: a point that fills the picture is too
#: near to say anything about what is behind it.
_MAX_RADIUS = 64.0


def project_finite(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, ...]:
    """Project points (N, 3): (u, v, z, valid), each (N,); u = v = -1 where valid is False.

    Valid are the points beyond the near and before the far plane whose pixel is in the image, so u
    and v are always finite and can be used as indices.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        uv, z = camera.project(points)
        u, v = uv[..., 0], uv[..., 1]
        valid = (z > camera.near) & (z < camera.far)
        valid &= (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
    return np.where(valid, u, -1.0), np.where(valid, v, -1.0), z, valid


def depth_buffer(position: np.ndarray, radius: float, camera: Camera) -> np.ndarray:
    """Camera-space z of the nearest point per pixel, (H, W) float32, +inf where there is none.

    position: (N, 3). radius: world units, > 0; each point is a disk of this radius that faces the
    camera, and covers at least the pixel that its centre is in. Points whose centre is outside the
    image are left out.
    """
    buffer = np.full(camera.height * camera.width, np.inf, dtype=np.float32)
    u, v, z, valid = project_finite(position, camera)
    u, v, z = u[valid], v[valid], z[valid]
    focal = np.sqrt(camera.K[0, 0] * camera.K[1, 1])
    size = np.minimum(focal * radius / (1.0 if camera.orthographic else z), _MAX_RADIUS)
    if camera.orthographic:
        size = np.full_like(z, size)
    column, row = u.astype(np.int64), v.astype(np.int64)
    reach = np.ceil(size).astype(np.int64)
    far_first = np.argsort(-z)
    nearest = np.empty_like(buffer)
    for steps in np.unique(reach):
        offset = np.stack(
            np.meshgrid(*(np.arange(-steps, steps + 1),) * 2, indexing="ij"), axis=-1
        ).reshape(-1, 2)
        group = far_first[reach[far_first] == steps]
        chunk = max(1, _WRITES // len(offset))
        nearest.fill(np.inf)
        for begin in range(0, len(group), chunk):
            part = group[begin : begin + chunk]
            x = column[part, None] + offset[:, 0]
            y = row[part, None] + offset[:, 1]
            across = (x + 0.5 - u[part, None]) ** 2 + (y + 0.5 - v[part, None]) ** 2
            drawn = (across <= size[part, None] ** 2) | (offset == 0).all(axis=1)
            drawn &= (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)
            depth = np.broadcast_to(z[part, None].astype(np.float32), x.shape)
            # Of several writes to a pixel the last one stays, and that is the nearest.
            nearest[(y * camera.width + x)[drawn]] = depth[drawn]
        np.minimum(buffer, nearest, out=buffer)
    return buffer.reshape(camera.height, camera.width)


def silhouette_iou(position: np.ndarray, radius: float, camera: Camera, mask: np.ndarray) -> float:
    """Intersection over union of the points' outline with a mask (H, W) of the same camera.

    1 where both are empty.
    """
    drawn = np.isfinite(depth_buffer(position, radius, camera))
    mask = np.asarray(mask) != 0
    union = np.count_nonzero(drawn | mask)
    return np.count_nonzero(drawn & mask) / union if union else 1.0
