"""The literal depth peel in float64, which every fast path is compared with.

K passes over all points; pass k keeps, per pixel, the nearest point behind the one that pass k - 1
kept. Slow and meant to be read: it is the definition of the picture.

The rules. x_c = R x + t; a point vanishes when its depth key is not inside (near, far), when
anything about it is not finite, or when radius or density is not positive. Its footprint is the
axis-aligned ellipse around its projection with semi-axes a = |fx| r / z, b = |fy| r / z
(orthographic: without z), drawn with a' = max(a, min_radius_px), b' likewise; the density, at most
1, is multiplied by (a / a') (b / b'). With q = (du / a')^2 + (dv / b')^2 at the pixel's centre the
point is a layer of the pixel where q < 1, with alpha = density (1 - q). The K nearest layers are
composited front to back, until less than min_transmittance passes.
Source: 4K4D (Xu et al. 2024), differentiable depth peeling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .settings import PeelSettings, Rendered
from .splats import SH_C0, Splats

NO_LAYER = -1


@dataclass(frozen=True, eq=False)
class Layers:
    """The picture and what it is made of.

    rgba (H, W, 4) premultiplied, depth (H, W) = sum of T alpha z, surface (H, W) = z of the layer
    where the accumulated alpha reaches 0.5, else +inf; all float64. ids (H, W, K) int64: points of
    the layers, front first, then -1.
    """

    rgba: np.ndarray
    depth: np.ndarray
    surface: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True, eq=False)
class Footprints:
    """The M drawn points in depth order, nearest first; float64 except the keys.

    index (M,): which point. key (M,) float32. centre (M, 2) pixels. semi_axes (M, 2) pixels, after
    the minimum. weight (M,): density times compensation. z (M,): camera depth. rgb (M, 3), clipped.
    """

    index: np.ndarray
    key: np.ndarray
    centre: np.ndarray
    semi_axes: np.ndarray
    weight: np.ndarray
    z: np.ndarray
    rgb: np.ndarray


def render_reference(
    splats: Splats, camera: Camera, settings: PeelSettings | None = None
) -> Rendered:
    """The picture of `backend.render`, slowly and in float64."""
    layers = peel_reference(
        splats.position, splats.radius, splats.density, splats.sh, camera, settings
    )
    return Rendered(layers.rgba, layers.surface)


def peel_reference(
    position: np.ndarray,
    radius: np.ndarray,
    density: np.ndarray,
    color: np.ndarray,
    camera: Camera,
    settings: PeelSettings | None = None,
) -> Layers:
    """K raster passes. position (N, 3), radius (N,), density (N,), color (N, 3) or (N, B, 3)."""
    settings = settings or PeelSettings()
    points = footprints(position, radius, density, color, camera, settings)
    shape = (camera.height, camera.width)
    behind_all = len(points.index)
    rgba = np.zeros((*shape, 4))
    depth = np.zeros(shape)
    surface = np.full(shape, np.inf)
    transmittance = np.ones(shape)
    ids = np.full((*shape, settings.layers), NO_LAYER, dtype=np.int64)
    previous = np.full(shape, -1)  # place in depth order of the layer of the last pass
    for k in range(settings.layers):
        nearest = np.full(shape, behind_all)
        for place in range(len(points.index)):
            window, q = squared_distance(points, place, camera)
            layer = (q < 1) & (place > previous[window]) & (place < nearest[window])
            nearest[window][layer] = place
        rows, columns = np.nonzero(
            (nearest < behind_all) & (transmittance >= settings.min_transmittance)
        )
        if len(rows) == 0:
            break
        at = (rows, columns)
        place = nearest[at]
        du = (columns + 0.5 - points.centre[place, 0]) / points.semi_axes[place, 0]
        dv = (rows + 0.5 - points.centre[place, 1]) / points.semi_axes[place, 1]
        alpha = points.weight[place] * (1 - (du**2 + dv**2))
        weight = transmittance[at] * alpha
        before = rgba[at][:, 3]
        rgba[at] += weight[:, None] * np.c_[points.rgb[place], np.ones(len(place))]
        depth[at] += weight * points.z[place]
        passes = (before < 0.5) & (before + weight >= 0.5)
        surface[rows[passes], columns[passes]] = points.z[place[passes]]
        transmittance[at] *= 1 - alpha
        ids[rows, columns, k] = points.index[place]
        previous = nearest
    return Layers(rgba, depth, surface, ids)


def footprints(
    position: np.ndarray,
    radius: np.ndarray,
    density: np.ndarray,
    color: np.ndarray,
    camera: Camera,
    settings: PeelSettings,
) -> Footprints:
    """Project the points and drop those that are not drawn; arguments as for `peel_reference`."""
    position, radius, density, color = (
        np.asarray(array, dtype=np.float64) for array in (position, radius, density, color)
    )
    index = drawn_points(position, radius, density, color, camera)
    position, radius, density, color = (
        array[index] for array in (position, radius, density, color)
    )
    centre, z = camera.project(position)
    focal = np.abs([camera.K[0, 0], camera.K[1, 1]])
    exact = focal * radius[:, None] / (1.0 if camera.orthographic else z[:, None])
    semi_axes = np.maximum(exact, settings.min_radius_px)
    weight = np.minimum(density, 1) * np.prod(exact / semi_axes, axis=1)
    key = depth_key(position, camera)
    order = np.argsort(key, kind="stable")
    points = Footprints(
        index, key, centre, semi_axes, weight, z, np.clip(view_color(position, color, camera), 0, 1)
    )
    return Footprints(**{name: array[order] for name, array in vars(points).items()})


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
    r = camera.R[2].astype(np.float32)
    key = np.full(len(position), np.float32(camera.t[2]))
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


def view_color(position: np.ndarray, color: np.ndarray, camera: Camera) -> np.ndarray:
    """Colours before the clip, (N, 3); color: (N, 3) rgb, returned as it is, or (N, B, 3)."""
    if color.ndim == 2:
        return color
    if camera.orthographic:
        direction = np.broadcast_to(camera.forward, position.shape)
    else:
        direction = position - camera.centre
        direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
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


def ambiguous_pixels(
    position: np.ndarray,
    radius: np.ndarray,
    density: np.ndarray,
    color: np.ndarray,
    camera: Camera,
    settings: PeelSettings | None = None,
) -> np.ndarray:
    """Pixels (H, W) bool that two correct back ends may draw differently.

    There the rim of a point passes within 1e-5 semi-axes of the pixel's centre, so that float32
    may or may not see a layer, or two covering points lie within 4 units in the last place of
    float32 depth without being equal. Parity tests excuse these pixels, if they are at most
    0.01 % of the picture.
    """
    settings = settings or PeelSettings()
    points = footprints(position, radius, density, color, camera, settings)
    shape = (camera.height, camera.width)
    ambiguous = np.zeros(shape, dtype=bool)
    last_key = np.full(shape, -np.inf, dtype=np.float32)
    for place in range(len(points.index)):
        window, q = squared_distance(points, place, camera, margin=1.0)
        distance = np.sqrt(q)
        ambiguous[window] |= np.abs(distance - 1) < 1e-5
        covered = distance < 1
        key = points.key[place]
        before = last_key[window]
        close = (before != key) & (key - before <= 4 * np.spacing(key))
        ambiguous[window] |= covered & close
        before[covered] = key
    return ambiguous
