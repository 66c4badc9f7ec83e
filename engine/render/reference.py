"""The literal depth peel in float64, which every fast path is compared with.

K passes over all points; pass k keeps, per pixel, the nearest point behind the one that pass k - 1
kept. Slow and meant to be read: it is the definition of the picture.

Points. A clip stands in the world by an affine matrix M = (M_lin, M_t), clip -> world. With
A = R M_lin and b = R M_t + t a point is at x_c = A p + b. It vanishes when its depth key
fmaf(A20, x, fmaf(A21, y, fmaf(A22, z, b2))), computed in float32, is not inside (near, far), when
anything about it is not finite, or when radius or density is not positive. Its footprint is the
axis-aligned ellipse around its projection with semi-axes a = |fx| s r / z, b = |fy| s r / z
(orthographic: without z), s the largest singular value of M_lin, drawn with a' = max(a,
min_radius_px), b' likewise. Its weight is the density, at most 1, times the clip's opacity times
(a / a') (b / b'); a point whose weight is 0 in float32 vanishes. Its colour is evaluated in the
clip's own space, seen from pinv(M_lin) (C - M_t), C the camera's centre (orthographic: along
pinv(M_lin) forward), and clipped to [0, 1].

Layers. With q = (du / a')^2 + (dv / b')^2 at the pixel's centre the point is a layer of the pixel
where q < 1, with alpha = weight (1 - q). The points of all clips share one order: by key, then
clip, then point. The K nearest layers are composited front to back, until less than
min_transmittance passes.

Triangles. They are opaque, seen from both sides, and no layers. The mesh depth of a pixel is the
smallest z in (near, far) of the triangles that contain its centre, edges included; ties: the first
triangle. Points at or behind the mesh depth are no layers. What the layers let through falls on
the triangle, unless it is a holdout, which hides and shows nothing.

Surface. Where the accumulated alpha reaches 0.5: z and id of the layer's clip or of the triangle's
mesh.

Samples. With S samples along each axis the picture is that of a camera with S times the pixels;
rgba and accumulated depth are averaged, and the surface is the nearest one of the S x S samples if
at least half of them have one.

Source: 4K4D (Xu et al. 2024), differentiable depth peeling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .camera import Camera
from .mesh import Mesh
from .reference_mesh import MeshPlanes, close, doubtful_mesh_pixels, mesh_planes
from .reference_points import (
    Cloud,
    Footprints,
    depth_key,
    drawn_points,
    footprints,
    fused_multiply_add,
    spherical_harmonics,
    squared_distance,
)
from .settings import PeelSettings, Rendered
from .splats import PackedSplats, Splats

if TYPE_CHECKING:
    from .backend import Instance

__all__ = [
    "NO_LAYER",
    "Layers",
    "ambiguous_pixels",
    "depth_key",
    "drawn_points",
    "fused_multiply_add",
    "peel_reference",
    "reference_scene",
    "render_reference",
    "spherical_harmonics",
]

NO_LAYER = -1
#: Float32 may see a rim, an edge or one half of the light this far from where they are.
RIM = EDGE = HALF = 1e-5
#: Depths that are nearer to each other than so many units in the last place of float32 may swap.
ULP = 4


@dataclass(frozen=True, eq=False)
class Layers:
    """The picture and what it is made of.

    rgba (H, W, 4) premultiplied, depth (H, W) = sum of T alpha z, surface (H, W) = z of the layer
    or triangle where the accumulated alpha reaches 0.5, else +inf; all float64. ids
    (S H, S W, K) int64: points of the layers of every sample, counted through all clips, front
    first, then -1. surface_id (H, W) int64: id of the surface's clip or mesh, else -1.
    """

    rgba: np.ndarray
    depth: np.ndarray
    surface: np.ndarray
    ids: np.ndarray
    surface_id: np.ndarray


def render_reference(
    splats: Splats, camera: Camera, settings: PeelSettings | None = None
) -> Rendered:
    """The picture of `backend.render`, slowly and in float64."""
    layers = peel_reference(
        splats.position, splats.radius, splats.density, splats.sh, camera, settings
    )
    return Rendered(layers.rgba, layers.surface, layers.surface_id, "reference")


def peel_reference(
    position: np.ndarray,
    radius: np.ndarray,
    density: np.ndarray,
    color: np.ndarray,
    camera: Camera,
    settings: PeelSettings | None = None,
) -> Layers:
    """One cloud. position (N, 3), radius (N,), density (N,), color (N, 3) or (N, B, 3)."""
    clouds = [Cloud(position, radius, density, color, np.eye(4), 1.0, 0)]
    return peel_clouds(clouds, (), camera, settings or PeelSettings(), samples=1)


def reference_scene(
    instances: Sequence[Instance],
    camera: Camera,
    settings: PeelSettings | None = None,
    *,
    meshes: Sequence[Mesh] = (),
    samples: int = 1,
) -> Layers:
    """The picture of `backend.render_scene`, slowly and in float64."""
    return peel_clouds(clouds_of(instances), meshes, camera, settings or PeelSettings(), samples)


def clouds_of(instances: Sequence[Instance]) -> list[Cloud]:
    clouds = []
    for place, instance in enumerate(instances):
        splats = instance.splats
        if isinstance(splats, PackedSplats):
            splats = splats.unpack()
        identity = place if instance.id is None else instance.id
        clouds.append(
            Cloud(
                splats.position,
                splats.radius,
                splats.density,
                splats.sh,
                instance.matrix,
                instance.opacity,
                identity,
            )
        )
    return clouds


def peel_clouds(
    clouds: Sequence[Cloud],
    meshes: Sequence[Mesh],
    camera: Camera,
    settings: PeelSettings,
    samples: int,
) -> Layers:
    view = camera.scaled(camera.width * samples, camera.height * samples)
    points = footprints(clouds, view, settings)
    triangles = mesh_planes(meshes, view)
    places = nearest_layers(points, triangles, view, settings)
    layers = composite(places, points, triangles, settings)
    return layers if samples == 1 else average(layers, samples)


def nearest_layers(
    points: Footprints, triangles: MeshPlanes, camera: Camera, settings: PeelSettings
) -> np.ndarray:
    """K passes: places in `points` of the nearest layers of every pixel, (H, W, K), then -1."""
    shape = (camera.height, camera.width)
    behind_all = len(points.index)
    covered = []
    for place in range(behind_all):
        window, q = squared_distance(points, place, camera)
        covered.append((window, (q < 1) & (points.z[place] < triangles.z[window])))
    places = np.full((*shape, settings.layers), NO_LAYER)
    previous = np.full(shape, -1)
    for k in range(settings.layers):
        nearest = np.full(shape, behind_all)
        for place, (window, layer) in enumerate(covered):
            candidate = layer & (place > previous[window]) & (place < nearest[window])
            nearest[window][candidate] = place
        places[..., k] = np.where(nearest < behind_all, nearest, NO_LAYER)
        if (nearest == behind_all).all():
            break
        previous = nearest
    return places


def layer_alpha(place: np.ndarray, points: Footprints) -> np.ndarray:
    """Alpha (H, W) of one layer of every pixel given its place (H, W); 0 where that is -1."""
    alpha = np.zeros(place.shape)
    rows, columns = np.nonzero(place != NO_LAYER)
    place = place[rows, columns]
    du = (columns + 0.5 - points.centre[place, 0]) / points.semi_axes[place, 0]
    dv = (rows + 0.5 - points.centre[place, 1]) / points.semi_axes[place, 1]
    alpha[rows, columns] = points.weight[place] * (1 - (du**2 + dv**2))
    return alpha


def composite(
    places: np.ndarray, points: Footprints, triangles: MeshPlanes, settings: PeelSettings
) -> Layers:
    """Front to back; places (H, W, K) as `nearest_layers` gives them."""
    shape = places.shape[:2]
    rgba = np.zeros((*shape, 4))
    depth = np.zeros(shape)
    surface = np.full(shape, np.inf)
    surface_id = np.full(shape, -1)
    ids = np.full(places.shape, NO_LAYER, dtype=np.int64)
    transmittance = np.ones(shape)
    for k in range(places.shape[2]):
        here = (places[..., k] != NO_LAYER) & (transmittance >= settings.min_transmittance)
        if not here.any():
            break
        place = places[here, k]
        alpha = layer_alpha(places[..., k], points)[here]
        before = transmittance[here]
        after = before * (1 - alpha)
        rgba[here] += (before * alpha)[:, None] * np.c_[points.rgb[place], np.ones(len(place))]
        depth[here] += before * alpha * points.z[place]
        transmittance[here] = after
        ids[here, k] = points.index[place]
        reached = (before > 0.5) & (after <= 0.5)
        surface[here] = np.where(reached, points.z[place], surface[here])
        surface_id[here] = np.where(reached, points.id[place], surface_id[here])
    lit = triangles.shown
    rgba[lit] += transmittance[lit, None] * np.c_[triangles.rgb[lit], np.ones(lit.sum())]
    depth[lit] += transmittance[lit] * triangles.z[lit]
    first = lit & np.isinf(surface)
    surface[first] = triangles.z[first]
    surface_id[first] = triangles.id[first]
    return Layers(rgba, depth, surface, ids, surface_id)


def average(layers: Layers, samples: int) -> Layers:
    """One pixel of samples x samples pixels."""
    surface, surface_id = by_pixel(layers.surface, samples), by_pixel(layers.surface_id, samples)
    nearest = surface.argmin(axis=2)[..., None]  # the first of equal ones
    enough = 2 * np.isfinite(surface).sum(axis=2) >= samples**2
    return Layers(
        by_pixel(layers.rgba, samples).mean(axis=2),
        by_pixel(layers.depth, samples).mean(axis=2),
        np.where(enough, np.take_along_axis(surface, nearest, axis=2)[..., 0], np.inf),
        layers.ids,
        np.where(enough, np.take_along_axis(surface_id, nearest, axis=2)[..., 0], -1),
    )


def by_pixel(plane: np.ndarray, samples: int) -> np.ndarray:
    """(S H, S W, ...) -> (H, W, S * S, ...), the samples of a pixel in row-major order."""
    height, width = plane.shape[0] // samples, plane.shape[1] // samples
    rest = plane.shape[2:]
    blocks = plane.reshape(height, samples, width, samples, *rest).swapaxes(1, 2)
    return blocks.reshape(height, width, samples**2, *rest)


def ambiguous_pixels(
    *scene, meshes: Sequence[Mesh] = (), samples: int = 1, surface: bool = False
) -> np.ndarray:
    """Pixels (H, W) bool that two correct back ends may draw differently.

    Called as `ambiguous_pixels(instances, camera, settings, ...)` or, for one cloud, as
    `ambiguous_pixels(position, radius, density, color, camera, settings)`; settings may be left
    out. There the rim of a point passes within 1e-5 semi-axes of the pixel's centre or the edge of
    a triangle within 1e-5 pixels, so that float32 may or may not see it, or the depths of two
    points that cover it, of two triangles, or of a point and the mesh lie within 4 units in the
    last place of float32. With samples a pixel is ambiguous when one of its samples is.
    surface: also where the z or id of the surface may differ, as the accumulated alpha comes within
    1e-5 of 0.5, or the surfaces of two samples are equally near.

    Parity tests excuse these pixels, if they differ in at most 0.01 % of the picture.
    """
    if isinstance(scene[1], Camera):
        clouds = clouds_of(scene[0])
        camera, *settings = scene[1:]
    else:
        clouds = [Cloud(*scene[:4], np.eye(4), 1.0, 0)]
        camera, *settings = scene[4:]
    peel = settings[0] if settings and settings[0] is not None else PeelSettings()
    view = camera.scaled(camera.width * samples, camera.height * samples)
    points = footprints(clouds, view, peel)
    triangles = mesh_planes(meshes, view)
    doubtful = doubtful_layers(points, triangles, view)
    doubtful |= doubtful_mesh_pixels(meshes, view, pixels=EDGE, ulp=ULP)
    if surface:
        places = nearest_layers(points, triangles, view, peel)
        doubtful |= doubtful_halves(places, points, peel)
    excused = by_pixel(doubtful, samples).any(axis=2)
    if surface and samples > 1:
        layers = composite(places, points, triangles, peel)
        excused |= doubtful_nearest_sample(layers, samples)
    return excused


def doubtful_layers(points: Footprints, triangles: MeshPlanes, camera: Camera) -> np.ndarray:
    """Where rounding may decide which points are layers, or in which order."""
    shape = (camera.height, camera.width)
    doubtful = np.zeros(shape, dtype=bool)
    last_key = np.full(shape, -np.inf, dtype=np.float32)
    for place in range(len(points.index)):
        window, q = squared_distance(points, place, camera, margin=1.0)
        distance = np.sqrt(q)
        doubtful[window] |= np.abs(distance - 1) < RIM
        covered = distance < 1
        key = points.key[place]
        before = last_key[window]
        swap = (before != key) & (key - before <= ULP * np.spacing(np.abs(key)))
        doubtful[window] |= covered & swap
        doubtful[window] |= covered & close(points.z[place], triangles.z[window], ULP)
        before[covered] = key
    return doubtful


def doubtful_halves(places: np.ndarray, points: Footprints, settings: PeelSettings) -> np.ndarray:
    """Where rounding may decide which layer is the surface."""
    doubtful = np.zeros(places.shape[:2], dtype=bool)
    transmittance = np.ones(places.shape[:2])
    for k in range(places.shape[2]):
        transmittance *= 1 - layer_alpha(places[..., k], points)
        doubtful |= np.abs(transmittance - 0.5) < HALF
        last = np.abs(transmittance - settings.min_transmittance) < HALF
        doubtful |= last & (transmittance > 0.5)  # another layer, and it might be the one
    return doubtful


def doubtful_nearest_sample(layers: Layers, samples: int) -> np.ndarray:
    """Where rounding may decide which sample of a pixel shows the nearest surface."""
    surface, surface_id = by_pixel(layers.surface, samples), by_pixel(layers.surface_id, samples)
    nearest = surface.argmin(axis=2)[..., None]
    z, shown = (np.take_along_axis(plane, nearest, axis=2) for plane in (surface, surface_id))
    return ((surface != z) & (surface_id != shown) & close(surface, z, ULP)).any(axis=2)
