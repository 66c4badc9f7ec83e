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


def contribution(splats: Splats, cameras: Sequence[Camera], settings: PeelSettings) -> np.ndarray:
    """The share of the cameras' pictures that each point makes, (N,) float64.

    Its importance in a camera over that of all points there, on average over the cameras: the sum
    over the points is 1, however large the pictures are. NaN for a point that no camera has in its
    picture, because nothing is known about it, and for all where nothing is seen.
    """
    total, pictures = np.zeros(len(splats)), 0
    known = np.zeros(len(splats), dtype=bool)
    for camera in cameras:
        uv, z = camera.project(splats.position.astype(np.float64))
        with np.errstate(invalid="ignore"):
            inside = (z > camera.near) & (uv >= 0).all(axis=1)
            known |= inside & (uv < (camera.width, camera.height)).all(axis=1)
        own = importance(splats, [camera], settings)
        whole = own.sum()
        if whole > 0:
            total += own / whole
            pictures += 1
    return np.where(known, total / pictures, np.nan) if pictures else np.full(len(splats), np.nan)


def least_important(share: np.ndarray, dropped: float) -> np.ndarray:
    """Which points (N,) bool together make less than `dropped` of the pictures: the faintest.

    share: what `contribution` says, (N,). Points that nothing is known of are none of them.
    """
    order = np.argsort(share)  # NaN is last
    least = np.zeros(len(share), dtype=bool)
    least[order[np.cumsum(share[order]) < dropped]] = True
    return least


def worth_keeping(
    splats: Splats, cameras: Sequence[Camera], settings: PeelSettings, dropped: float
) -> np.ndarray:
    """Which points (N,) bool are more than the faintest that together make less than `dropped` of
    the cameras' pictures. All of them for 0, and without cameras."""
    if dropped <= 0 or not cameras:
        return np.ones(len(splats), dtype=bool)
    return ~least_important(contribution(splats, cameras, settings), dropped)
