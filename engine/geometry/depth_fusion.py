"""Fuse the depth maps of one frame into surface points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ReconstructionError
from ..machine import in_threads
from ..render.camera import Camera
from .depth_noise import SAMPLES, averaged, disagreement, smoothed
from .filters import remove_outliers
from .points import Points, mean_by_group, unit_or_zero
from .rig import check_cameras
from .voxels import MAX_CELLS, pack
from .zbuffer import CHUNK, project_finite

#: The least cosine between a surface and the ray of the camera that measured it: flatter than that
#: (84 degrees) a pixel is smeared over several spacings, or spans a gap between two surfaces.
_MIN_COSINE = 0.1
#: Pixels of one view per spacing, along a line, that become points: more would cost time for an
#: average over dozens of them.
_SAMPLES_PER_SPACING = 1.5
#: Views that disagree by less than this many spacings are left as they are: exact depth is off by
#: a quarter, as a point is looked up in the nearest pixel of a slanted surface.
_NOISY = 0.5


@dataclass(frozen=True)
class FusionSettings:
    """How depth maps are fused.

    pixels_per_point: the spacing of the points, in pixels of the median measurement. Measured
        surfaces carry finer points than hulls do: each halving still gained a decibel after
        training, for four times the points.
    tolerance: depths that differ by less than this many spacings agree, or by less than twice the
        noise of the measurement, where that is more.
    min_views: so many *other* views must see a point at its depth (all of them, where there are
        fewer).
    max_conflict: and at most this share of the views that could see the point may look through it,
        at something farther away.
    max_points: the spacing grows until there are at most so many.
    min_component: connected groups with a smaller share of the points are noise.
    """

    pixels_per_point: float = 1.8
    tolerance: float = 1.5
    min_views: int = 2
    max_conflict: float = 0.2
    max_points: int = 262_144
    min_component: float = 0.002

    def __post_init__(self) -> None:
        valid = (
            0 < self.pixels_per_point < np.inf
            and self.tolerance > 0
            and self.min_views >= 0
            and 0 <= self.max_conflict <= 1
            and self.max_points >= 1
            and 0 <= self.min_component < 1
        )
        if not valid:
            raise ReconstructionError(f"the settings of the depth fusion are out of range: {self}")


@dataclass(frozen=True, eq=False)
class DepthView:
    """One camera's measurement, cleaned.

    depth: (H, W) float32, camera-space z in world units; +inf where the camera looks past the
        subject (outside its mask), NaN where it measured nothing.
    front: (H, W), the least depth among a pixel and its 8 neighbours; NaN counts as -inf, so that
        nothing is seen through a hole of the measurement.
    """

    camera: Camera
    depth: np.ndarray
    front: np.ndarray


def fuse_depth(
    cameras: Sequence[Camera],
    depths: Sequence[np.ndarray | None],
    masks: Sequence[np.ndarray | None] | None = None,
    settings: FusionSettings | None = None,
    *,
    spacing: float | None = None,
) -> Points:
    """Surface points on which the depth maps of one frame agree.

    depths: V arrays (H, W), camera-space z in world units, 0 (or not finite) = unknown, or None.
    masks: V arrays (H, W), true on the subject; without one a camera's whole depth map counts.
    Every pixel of the subject becomes a point; it stays when enough other views see a surface
    there and few look through it; a view that does not see it, or sees something nearer, abstains.
    Where the views disagree by more than half a spacing their depth is noisy: every depth map is
    smoothed, edges kept, and a point is averaged with the surfaces of the views that agree on it.
    The points of one voxel of the spacing are averaged, too.
    spacing: of the points in world units. By default it follows from the measurements: pass that of
    the first frame's result on to the others.
    Returns points with normals and the number of views that agree on them.
    Raises ReconstructionError where nothing was measured or no point is agreed on.
    """
    settings = settings or FusionSettings()
    check_cameras(cameras)
    views = _prepare(cameras, depths, masks)
    sizes = [size for view in views for size in _pixel_sizes(view)]
    if not sizes:
        raise ReconstructionError(
            "the depth maps of this frame hold no measurement of the subject",
            hint="Check the depth maps and the masks (`peel4d info`)",
        )
    if spacing is None:
        spacing = settings.pixels_per_point * float(np.median(sizes))
    if not 0 < spacing < np.inf:
        raise ReconstructionError(f"the point spacing must be above 0, not {spacing}")
    tolerance = settings.tolerance * spacing
    sigma = _sigma(views)
    noisy = sigma > _NOISY * spacing
    if noisy:

        def less_noisy(view: DepthView) -> DepthView:
            return _view(view.camera, smoothed(view.depth, sigma))

        views = in_threads(less_noisy, views)
        tolerance = max(tolerance, 2 * _sigma(views))

    def cloud_of(index: int) -> tuple[np.ndarray, np.ndarray]:
        return _back_project(views[index], _every(views[index], spacing), index)

    clouds = in_threads(cloud_of, range(len(views)))
    position = np.concatenate([cloud[0] for cloud in clouds])
    normal = np.concatenate([cloud[1] for cloud in clouds])
    owner = np.repeat(np.arange(len(views)), [len(cloud[0]) for cloud in clouds])

    agreeing, conflicting = _compare(position, owner, views, tolerance)
    enough = min(settings.min_views, len(views) - 1)
    # The view that measured the point agrees with itself.
    kept = agreeing >= enough
    kept &= conflicting <= settings.max_conflict * (agreeing + 1 + conflicting)
    if not kept.any():
        raise ReconstructionError(
            "the depth maps of this frame do not agree on any point",
            hint="Check the calibration and the unit of the depth maps, or raise the tolerance",
        )
    position, normal, agreeing = position[kept], normal[kept], agreeing[kept] + 1
    if noisy:
        cameras, depths = [view.camera for view in views], [view.depth for view in views]
        position = averaged(position, owner[kept], cameras, depths, tolerance)
    while True:
        points = _downsample(position, normal, agreeing, spacing)
        if len(points) <= settings.max_points:
            break
        spacing *= max(1.05, 1.02 * np.sqrt(len(points) / settings.max_points))
    least = max(2, int(np.ceil(settings.min_component * len(points))))
    return remove_outliers(points, min_component=least)


def _prepare(cameras, depths, masks):
    """Checked and cleaned depth maps, as DepthView; cameras without one are left out."""
    masks = [None] * len(cameras) if masks is None else masks
    if len(depths) != len(cameras) or len(masks) != len(cameras):
        raise ReconstructionError(
            f"{len(cameras)} cameras were given with {len(depths)} depth maps "
            f"and {len(masks)} masks"
        )
    views = []
    for index, (camera, depth, mask) in enumerate(zip(cameras, depths, masks, strict=True)):
        if depth is None:
            continue
        for name, array in (("depth map", depth), ("mask", mask)):
            if array is not None and np.shape(array) != (camera.height, camera.width):
                raise ReconstructionError(
                    f"the {name} is {np.shape(array)[::-1]} pixels, "
                    f"the camera {camera.width, camera.height}",
                    where=f"camera {index}",
                )
        clean = np.array(depth, dtype=np.float32)
        clean[~(np.isfinite(clean) & (clean > camera.near) & (clean < camera.far))] = np.nan
        if mask is not None:
            clean[np.asarray(mask) == 0] = np.inf
        views.append(_view(camera, clean))
    return views


def _view(camera, depth):
    import cv2

    solid = np.where(np.isnan(depth), -np.inf, depth)
    # Beyond the image border there is no surface to be seen through: erode pads with +inf.
    return DepthView(camera, depth, cv2.erode(solid, np.ones((3, 3), dtype=np.uint8)))


def _sigma(views):
    """Standard deviation between the views, from a few thousand pixels of each."""

    def cloud_of(view: DepthView) -> np.ndarray:
        measured = np.flatnonzero(np.isfinite(view.depth))
        some = measured[:: max(1, len(measured) // SAMPLES)]
        row, column = np.unravel_index(some, view.depth.shape)
        z = view.depth[row, column].astype(np.float64)[:, None]
        p = view.camera.rays(column + 0.5, row + 0.5)
        p = np.hstack([p[:, :2] * (1.0 if view.camera.orthographic else z), z])
        return (p - view.camera.t) @ view.camera.R

    cameras, depths = [view.camera for view in views], [view.depth for view in views]
    return disagreement(cameras, depths, [cloud_of(view) for view in views])


def _pixel_sizes(view):
    """The median size of a pixel on a view's surface, world units: [size], [] without any."""
    measured = view.depth[np.isfinite(view.depth)]
    if not measured.size:
        return []
    focal = np.sqrt(view.camera.K[0, 0] * view.camera.K[1, 1])
    return [(1.0 if view.camera.orthographic else float(np.median(measured))) / focal]


def _every(view, spacing):
    """One pixel in so many becomes a point: fewer where pixels are much smaller than the
    spacing."""
    sizes = _pixel_sizes(view)
    return max(1, int((spacing / sizes[0] / _SAMPLES_PER_SPACING) ** 2)) if sizes else 1


def _back_project(view, every, index):
    """Positions (N, 3) and normals (N, 3), in the world, of one of `every` pixels of a view.

    It is another lattice of them in every view (`index`).
    """
    camera, depth = view.camera, view.depth
    known = np.isfinite(depth)
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    if not len(rows):
        return np.zeros((0, 3)), np.zeros((0, 3))
    top, left = rows[0], columns[0]
    depth = depth[top : rows[-1] + 1, left : columns[-1] + 1]
    known = known[top : rows[-1] + 1, left : columns[-1] + 1]
    z = np.where(known, depth, np.nan).astype(np.float64)
    row, column = np.indices(depth.shape)
    grid = camera.rays(left + column + 0.5, top + row + 0.5)
    grid[..., :2] *= (
        np.where(known, 1.0, np.nan)[..., None] if camera.orthographic else z[..., None]
    )
    grid[..., 2] = z
    row, column = np.nonzero(known)
    # One pixel in `every`: a lattice whose rows are shifted by 0.382 of its period hits thin lines
    # of any direction.
    shift = round(0.382 * every)
    used = (column + left + shift * (row + top) + index) % every == 0
    row, column = row[used], column[used]
    p = grid[row, column]

    # Image axes are right and down, so this product points to the camera.
    normal = np.cross(_tangent(grid, row, column, 0), _tangent(grid, row, column, 1))
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    ray = np.broadcast_to([0.0, 0.0, 1.0], p.shape) if camera.orthographic else p
    ray = ray / np.linalg.norm(ray, axis=1, keepdims=True)
    known = np.isfinite(length) & (length > 0)
    # A pixel without neighbours has no measurable slant; it is taken to face the camera.
    normal = np.where(known, normal / np.where(known, length, 1.0), -ray)
    kept = -(normal * ray).sum(axis=1) >= _MIN_COSINE
    return (p[kept] - camera.t) @ camera.R, normal[kept] @ camera.R


def _tangent(grid, row, column, axis):
    """Step (N, 3) to the next pixel along an axis of grid (H, W, 3): the flatter of both sides.

    NaN where neither neighbour is known.
    """
    last = grid.shape[axis] - 1
    down, right = (1, 0) if axis == 0 else (0, 1)
    place = row if axis == 0 else column
    here = grid[row, column]
    after = grid[
        np.minimum(row + down, grid.shape[0] - 1), np.minimum(column + right, grid.shape[1] - 1)
    ]
    before = grid[np.maximum(row - down, 0), np.maximum(column - right, 0)]
    forward = np.where((place < last)[:, None], after - here, np.nan)
    backward = np.where((place > 0)[:, None], here - before, np.nan)
    with np.errstate(invalid="ignore"):
        ahead = ~(np.abs(forward[:, 2]) > np.abs(backward[:, 2])) & ~np.isnan(forward[:, 2])
    return np.where(ahead[:, None], forward, backward)


def _compare(position, owner, views, tolerance):
    """How many other views see each point (N, 3) at its depth, and how many look through it."""
    agreeing = np.zeros(len(position), dtype=np.int32)
    conflicting = np.zeros(len(position), dtype=np.int32)

    def compare(begin: int) -> None:
        part = slice(begin, begin + CHUNK)
        for index, view in enumerate(views):
            u, v, z, valid = project_finite(position[part], view.camera)
            which = np.flatnonzero(valid & (owner[part] != index))
            column, row, z = u[which].astype(int), v[which].astype(int), z[which]
            # NaN compares false: where nothing was measured the view neither agrees nor objects.
            agreeing[begin + which] += np.abs(view.depth[row, column] - z) <= tolerance
            conflicting[begin + which] += z < view.front[row, column] - tolerance

    in_threads(compare, range(0, len(position), CHUNK))
    return agreeing, conflicting


def _downsample(position, normal, agreeing, spacing):
    """One point per occupied voxel: the mean of the positions and normals in it."""
    low = position.min(axis=0)
    extent = (position.max(axis=0) - low).max() / spacing
    if extent >= MAX_CELLS:
        raise ReconstructionError(
            f"the scene is {extent:.0f} point spacings wide", hint="Use a larger spacing"
        )
    # The voxels are anchored in the world, not at the points, so that they are the same in all
    # frames.
    cells = np.floor(position / spacing).astype(np.int64)
    _, voxel, count = np.unique(
        pack(cells - cells.min(axis=0)), return_inverse=True, return_counts=True
    )
    return Points(
        mean_by_group(position, voxel, count),
        spacing,
        unit_or_zero(mean_by_group(normal, voxel, count)),
        np.rint(mean_by_group(agreeing[:, None], voxel, count)[:, 0]),
    )
