"""How much of pictures each point is (rendering weight), for what a clip may leave out."""

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
