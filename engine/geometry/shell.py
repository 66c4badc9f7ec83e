"""A closed, smooth surface around the rig: how far away things are in every direction.

It is what a scene looks like from the middle of its cameras, as an equirectangular map of inverse
distances. It says where a wall probably is that no two cameras can compare, and closes directions
that no camera has looked into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..render.camera import Camera
from .depth_completion import complete
from .rig import in_frustum

#: Rows of the map; it has twice as many columns.
_ROWS = 64
#: The map stays within this factor of the median distance.
_REACH = 10.0
#: Places along a ray at which it is tried whether it has met the surface.
_RAY_STEPS = 64


@dataclass(frozen=True, eq=False)
class Shell:
    """middle: (3,) world. inverse: (R, 2 R) float64, 1 / distance from there, by `directions`."""

    middle: np.ndarray
    inverse: np.ndarray

    def distance(self, direction: np.ndarray) -> np.ndarray:
        """How far the surface is, (N,), in unit directions (N, 3), world axes."""
        return 1 / self.inverse.ravel()[directions(direction, len(self.inverse))]

    def inverse_depth(self, camera: Camera) -> np.ndarray:
        """1 / z of the surface in every pixel of a camera, (H, W) float64."""
        ray = camera.pixel_rays().reshape(-1, 3) @ camera.R
        # From far to near, the last place that is outside: the ray ends in the wall behind things.
        farthest = 4 / self.inverse.min()
        nearest = 0.05 / self.inverse.max()
        tried = np.linspace(1 / farthest, 1 / nearest, _RAY_STEPS)
        result = np.full(len(ray), tried[-1])
        outside = np.ones(len(ray), dtype=bool)
        excess_before = np.zeros(len(ray))
        for step, inverse in enumerate(tried):
            offset = camera.centre + ray[outside] / inverse - self.middle
            length = np.linalg.norm(offset, axis=1)
            excess = length / self.distance(offset / length[:, None]) - 1
            which = np.flatnonzero(outside)
            met = excess <= 0
            if step:
                part = excess_before[which] / np.maximum(excess_before[which] - excess, 1e-12)
                here = tried[step - 1] + part * (inverse - tried[step - 1])
                result[which[met]] = here[met]
            else:
                result[which[met]] = inverse
            excess_before[which] = excess
            outside[which[met]] = False
        return result.reshape(camera.height, camera.width)


def fit_shell(position: np.ndarray, weight: np.ndarray, middle: np.ndarray) -> Shell:
    """The shell through points (N, 3) of weights (N,), seen from `middle` (3,), outliers aside."""
    offset = position - middle
    distance = np.maximum(np.linalg.norm(offset, axis=1), 1e-9)
    inverse = 1 / distance
    cell = directions(offset / distance[:, None], _ROWS)
    typical = _weighted_median(inverse, weight)
    spread = _weighted_median(np.abs(inverse - typical), weight) + 1e-3 * typical
    mean, sure = np.full(2 * _ROWS * _ROWS, typical), np.zeros(2 * _ROWS * _ROWS)
    whole = mean.copy()
    for round_number in range(6):
        # First against what most places say, then against the surface that follows from it.
        scale = spread if round_number < 2 else 0.5 * spread
        pull = weight / (1 + ((inverse - whole[cell]) / scale) ** 2) ** 2
        sure = np.bincount(cell, pull, len(mean))
        mean = np.bincount(cell, pull * inverse, len(mean)) / np.maximum(sure, 1e-12)
        whole = _closed(mean, np.minimum(sure, 1.0))
    return Shell(middle, np.clip(whole, typical / _REACH, typical * _REACH).reshape(_ROWS, -1))


def continued(shell: Shell, position: np.ndarray, values: np.ndarray, where: np.ndarray):
    """Values (N, C) of points (N, 3), smoothly continued to unit directions `where` (M, 3)."""
    offset = position - shell.middle
    cell = directions(offset / np.linalg.norm(offset, axis=1, keepdims=True), _ROWS)
    count = np.bincount(cell, minlength=2 * _ROWS * _ROWS)
    place = directions(where, _ROWS)
    known = np.minimum(count, 1).astype(np.float64)
    columns = [
        _closed(np.bincount(cell, value, len(count)) / np.maximum(count, 1), known)[place]
        for value in values.T
    ]
    return np.stack(columns, axis=1)


def gaps(
    shell: Shell, position: np.ndarray, cameras: Sequence[Camera], spacing: float, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the shell in directions that have none: (M, 3), and the directions, (M, 3).

    They are about `spacing` apart, and only where cameras look or up to `margin` degrees beyond, so
    that a rig that films one side gets no wall behind it.
    """
    import cv2

    offset = position - shell.middle
    distance = np.linalg.norm(offset, axis=1)
    reach = float(np.percentile(1 / shell.inverse, 95))
    wanted = int(np.clip(4 * np.pi * (reach / spacing) ** 2, 64, 1 << 20))
    index = np.arange(wanted) + 0.5
    polar, azimuth = np.arccos(1 - 2 * index / wanted), np.pi * (1 + 5**0.5) * index
    direction = np.stack(
        [np.cos(azimuth) * np.sin(polar), np.cos(polar), np.sin(azimuth) * np.sin(polar)], axis=1
    )
    rows = max(8, int(np.pi * float(np.median(distance)) / (2.5 * spacing)))
    occupied = np.zeros(2 * rows * rows, dtype=np.uint8)
    occupied[directions(offset / distance[:, None], rows)] = 1
    occupied = cv2.morphologyEx(
        occupied.reshape(rows, 2 * rows), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)
    )
    direction = direction[occupied.ravel()[directions(direction, rows)] == 0]
    closing = shell.middle + direction * shell.distance(direction)[:, None]
    looked_at = np.zeros(len(closing), dtype=bool)
    beyond = np.tan(np.radians(margin))
    for camera in cameras:
        z = camera.to_camera(closing)[:, 2]
        looked_at |= (z > 0) & in_frustum(camera, closing, beyond * z)
    # The lattice is as dense as the farthest parts need.
    _, one = np.unique(
        np.floor(closing[looked_at] / (0.8 * spacing)).astype(np.int64), axis=0, return_index=True
    )
    return closing[looked_at][one], direction[looked_at][one]


def directions(direction: np.ndarray, rows: int) -> np.ndarray:
    """Cells of an equirectangular map of `rows` x 2 `rows` that unit vectors (N, 3) fall into."""
    elevation = np.arcsin(np.clip(direction[:, 1], -1, 1)) / np.pi + 0.5
    azimuth = np.arctan2(direction[:, 2], direction[:, 0]) / (2 * np.pi) + 0.5
    row = np.clip((elevation * rows).astype(np.int64), 0, rows - 1)
    column = np.clip((azimuth * 2 * rows).astype(np.int64), 0, 2 * rows - 1)
    return row * 2 * rows + column


def _closed(values, known):
    """A map (flat) of _ROWS rows, completed; it is closed around the vertical axis."""
    pad = _ROWS // 2
    wide, sure = (
        np.concatenate([a[:, -pad:], a, a[:, :pad]], axis=1)
        for a in (values.reshape(_ROWS, -1), known.reshape(_ROWS, -1))
    )
    return complete(wide, sure, stiffness=2.0, iterations=40)[:, pad:-pad].ravel()


def _weighted_median(values, weights):
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])
