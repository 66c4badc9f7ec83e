"""Points as the reference sees them: float64, projected, in depth order.

The rules are those of `reference`, which has them in one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .camera import Camera
from .settings import PeelSettings
from .splats import SH_C0


@dataclass(frozen=True, eq=False)
class Cloud:
    """The points of one clip and where they stand.

    position (N, 3), radius (N,), density (N,), color (N, 3) rgb or (N, B, 3) harmonics. matrix
    (4, 4): clip -> world, affine. opacity: multiplies the density, clipped to [0, 1]. id: what the
    picture shows for the clip.
    """

    position: np.ndarray
    radius: np.ndarray
    density: np.ndarray
    color: np.ndarray
    matrix: np.ndarray
    opacity: float
    id: int


@dataclass(frozen=True, eq=False)
class Footprints:
    """The M drawn points in depth order, nearest first; float64 except the keys.

    index (M,): which point, counted through all clouds. id (M,): of its cloud. key (M,) float32.
    centre (M, 2) pixels. semi_axes (M, 2) pixels, after the minimum. weight (M,): alpha at the
    centre. z (M,): camera depth. rgb (M, 3), clipped.
    """

    index: np.ndarray
    id: np.ndarray
    key: np.ndarray
    centre: np.ndarray
    semi_axes: np.ndarray
    weight: np.ndarray
    z: np.ndarray
    rgb: np.ndarray


def footprints(clouds: Sequence[Cloud], camera: Camera, settings: PeelSettings) -> Footprints:
    """Project the points of all clouds, drop those that are not drawn, and sort the others."""
    parts = [cloud_footprints(cloud, camera, settings) for cloud in clouds]
    first = np.cumsum([0] + [len(cloud.position) for cloud in clouds])
    parts = [
        replace(part, index=part.index + start) for part, start in zip(parts, first, strict=False)
    ]
    nobody = np.zeros((0, 3))
    nothing = Cloud(nobody, nobody[:, 0], nobody[:, 0], nobody, np.eye(4), 1.0, 0)
    parts.append(cloud_footprints(nothing, camera, settings))  # no clouds at all are a scene too
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])
    }
    order = np.argsort(joined["key"], kind="stable")  # ties: cloud, then point
    return Footprints(**{name: array[order] for name, array in joined.items()})


def cloud_footprints(cloud: Cloud, camera: Camera, settings: PeelSettings) -> Footprints:
    """The drawn points of one cloud, not sorted."""
    position, radius, density, color = (
        np.asarray(array, dtype=np.float64)
        for array in (cloud.position, cloud.radius, cloud.density, cloud.color)
    )
    linear = np.asarray(cloud.matrix, dtype=np.float64)[:3, :3]
    shift = np.asarray(cloud.matrix, dtype=np.float64)[:3, 3]
    # The camera as the clip sees it: R is no rotation then, but it projects all the same.
    seen = replace(camera, R=camera.R @ linear, t=camera.R @ shift + camera.t)
    index = drawn_points(position, radius, density, color, seen)
    position, radius, density, color = (
        array[index] for array in (position, radius, density, color)
    )
    inverse = np.linalg.pinv(linear)
    eye = inverse @ (camera.forward if camera.orthographic else camera.centre - shift)
    with np.errstate(over="ignore", invalid="ignore"):
        centre, z = seen.project(position)
        focal = np.abs([camera.K[0, 0], camera.K[1, 1]])
        size = radius * np.linalg.norm(linear, 2) / (1.0 if camera.orthographic else z)
        exact = focal * size[:, None]
        semi_axes = np.maximum(exact, settings.min_radius_px)
        opacity = min(max(cloud.opacity, 0.0), 1.0)
        weight = np.minimum(density, 1) * opacity * np.prod(exact / semi_axes, axis=1)
        finite = np.isfinite(centre.sum(axis=1) + z) & np.isfinite(exact.sum(axis=1))
        visible = finite & (weight.astype(np.float32) > 0)
    points = Footprints(
        index,
        np.full(len(index), cloud.id),
        depth_key(position, seen),
        centre,
        semi_axes,
        weight,
        z,
        np.clip(view_color(position, color, eye, camera.orthographic), 0, 1),
    )
    return Footprints(**{name: array[visible] for name, array in vars(points).items()})


def drawn_points(
    position: np.ndarray,
    radius: np.ndarray,
    density: np.ndarray,
    color: np.ndarray,
    camera: Camera,
) -> np.ndarray:
    """Indices (M,), ascending, of the points that are drawn if they reach the image."""
    finite = np.isfinite(position).all(axis=1) & np.isfinite(radius) & np.isfinite(density)
    finite &= np.isfinite(color.reshape(len(color), np.prod(color.shape[1:], dtype=int))).all(1)
    index = np.flatnonzero(finite & (radius > 0) & (density > 0))
    key = depth_key(position[index], camera)
    inside = (key > np.float32(camera.near)) & (key < np.float32(camera.far))
    if not camera.orthographic:
        inside &= camera.to_camera(position[index])[:, 2] > 0
    return index[inside]


def depth_key(position: np.ndarray, camera: Camera) -> np.ndarray:
    """Order along the viewing axis, (N,) float32: fmaf(R20, x, fmaf(R21, y, fmaf(R22, z, t2))).

    Exactly these float32 operations on every back end, so that all agree which point is nearer;
    points with the same key are ordered by their index.
    """
    x, y, z = np.asarray(position, dtype=np.float32).T
    with np.errstate(over="ignore"):
        r = camera.R[2].astype(np.float32)
        key = np.full(len(position), camera.t[2].astype(np.float32))
    for axis, coordinate in ((2, z), (1, y), (0, x)):
        key = fused_multiply_add(r[axis], coordinate, key)
    return key + np.float32(0)  # -0 and 0 are the same depth


def fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c of float32 arrays with a single rounding, as the C function fmaf."""
    a, b, c = (np.asarray(v, dtype=np.float64) for v in (a, b, c))
    with np.errstate(invalid="ignore", over="ignore"):
        product = a * b  # exact: 24 + 24 bits
        total = np.atleast_1d(product + c)
        # What the addition lost (Knuth's two-sum), forced into the last bit ("round to odd"), so
        # that the second rounding, to float32, cannot be misled by the first.
        virtual = total - product
        lost = (product - (total - virtual)) + (c - virtual)
        bits = total.view(np.int64)
        inexact = np.isfinite(total) & (lost != 0) & (bits & 1 == 0)
        bits[inexact] += np.where((lost > 0) == (total > 0), 1, -1)[inexact]
        return total.astype(np.float32).reshape(np.broadcast_shapes(a.shape, b.shape, c.shape))


def view_color(
    position: np.ndarray, color: np.ndarray, eye: np.ndarray, orthographic: bool
) -> np.ndarray:
    """Colours before the clip, (N, 3); color: (N, 3) rgb, returned as it is, or (N, B, 3).

    eye: the camera's centre in the clip, orthographic: its viewing direction, of any length.
    """
    if color.ndim == 2:
        return color
    direction = np.broadcast_to(eye, position.shape) if orthographic else position - eye
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    direction = direction / np.where(length > 0, length, 1)
    basis = np.stack(spherical_harmonics(*direction.T, color.shape[1]), axis=1)
    return np.einsum("nb,nbc->nc", basis, color)


def spherical_harmonics(x, y, z, count: int) -> list:
    """Real spherical harmonics Y_0 .. Y_{count - 1} at the unit directions (x, y, z).

    x, y, z: arrays of numpy or torch; count: 1, 4, 9 or 16. Order (l, m) = 0 0; 1 -1, 1 0, 1 1;
    2 -2 .. 2 2; 3 -3 .. 3 3, with the Condon-Shortley phase: Y_1 = (-C1 y, C1 z, -C1 x).
    """
    c1 = math.sqrt(3 / (4 * math.pi))
    c2, c20, c22 = (math.sqrt(n / (16 * math.pi)) for n in (60, 5, 15))
    c30, c31, c32, c33 = (math.sqrt(n / (32 * math.pi)) for n in (14, 21, 210, 35))
    basis = [
        SH_C0 + 0 * x,
        -c1 * y,
        c1 * z,
        -c1 * x,
        c2 * x * y,
        -c2 * y * z,
        c20 * (2 * z * z - x * x - y * y),
        -c2 * x * z,
        c22 * (x * x - y * y),
        -c33 * y * (3 * x * x - y * y),
        2 * c32 * x * y * z,
        -c31 * y * (4 * z * z - x * x - y * y),
        c30 * z * (2 * z * z - 3 * x * x - 3 * y * y),
        -c31 * x * (4 * z * z - x * x - y * y),
        c32 * z * (x * x - y * y),
        -c33 * x * (x * x - 3 * y * y),
    ]
    return basis[:count]


def squared_distance(
    points: Footprints, place: int, camera: Camera, margin: float = 0.0
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Rows and columns that the footprint of a point can reach, and q at their pixel centres.

    margin: pixels by which the window is widened.
    """
    size = np.array([camera.width, camera.height])
    reach = points.semi_axes[place] + margin
    first = np.clip(np.ceil(points.centre[place] - reach - 0.5), 0, size).astype(int)
    end = np.clip(np.floor(points.centre[place] + reach - 0.5) + 1, first, size).astype(int)
    squares = [
        ((np.arange(first[axis], end[axis]) + 0.5 - points.centre[place, axis])
         / points.semi_axes[place, axis]) ** 2
        for axis in (0, 1)
    ]  # fmt: skip
    window = (slice(first[1], end[1]), slice(first[0], end[0]))
    return window, squares[1][:, None] + squares[0][None, :]
