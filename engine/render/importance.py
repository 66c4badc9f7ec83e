"""How much of pictures each point is (rendering weight), and how much of a point pictures show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import core
from .camera import Camera
from .settings import PeelSettings
from .splats import Splats


def importance(splats: Splats, cameras: Sequence[Camera], settings: PeelSettings) -> np.ndarray:
    """Pixels that each point fills in the cameras' pictures, (N,) float64, their sum.

    It is sum_u T_k alpha_k over pixels u and cameras, the weight with which a point's colour counts
    (compact_vv's importance of a code, here of the point itself): the derivative of the pictures'
    sum by the colour.
    """
    total = np.zeros(len(splats))
    if len(splats) == 0:
        return total
    grey = np.full((len(splats), 3), 0.5, dtype=np.float32)
    for camera in cameras:
        d_rgba = np.zeros((camera.height, camera.width, 4), dtype=np.float32)
        d_rgba[..., 0] = 1
        gradients = core.backward(
            splats.position, splats.radius, splats.density, grey, camera, settings, d_rgba
        )
        total += gradients[3][:, 0]
    return total


def visibility(splats: Splats, cameras: Sequence[Camera], settings: PeelSettings) -> np.ndarray:
    """The share of each point's disk that the cameras see, (N,) float64, in [0, 1] or so.

    It is the point's importance over the pixels that its opaque disk would fill if nothing hid it,
    in the cameras that have its centre in their picture: density times transmittance, on average.
    1 for a point that no camera looks at, because nothing is known about it.
    """
    disk = np.zeros(len(splats))
    for camera in cameras:
        uv, z = camera.project(splats.position.astype(np.float64))
        with np.errstate(invalid="ignore"):
            inside = (z > camera.near) & (uv >= 0).all(axis=1)
            inside &= (uv < (camera.width, camera.height)).all(axis=1)
        # The integral of 1 - rho^2 over the footprint's ellipse is half its area.
        area = 0.5 * np.pi * camera.K[0, 0] * camera.K[1, 1] * splats.radius[inside] ** 2.0
        disk[inside] += area if camera.orthographic else area / z[inside] ** 2
    seen = disk > 0
    result = np.ones(len(splats))
    result[seen] = importance(splats, cameras, settings)[seen] / disk[seen]
    return result
