"""The visual hull of one frame: space carving with masks, coarse to fine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ReconstructionError
from ..render.camera import Camera
from .filters import remove_outliers
from .points import Points, mean_by_group, unit_or_zero
from .rig import check_cameras, pixel_size, rig_bounds
from .silhouettes import Silhouette, silhouettes, vote
from .voxels import (
    ALL_NEIGHBOURS,
    FACE_NEIGHBOURS,
    MAX_CELLS,
    find,
    pack,
)

logger = logging.getLogger(__name__)

#: The coarsest grid has at most this many voxels along its longest side.
_ROOT_CELLS = 12
#: A grid level with more voxels than this makes the spacing wider instead of filling the memory.
_MAX_VOXELS = 4_000_000
#: Voxels per point spacing. At 1 the centres of the voxels miss parts as thin as a pixel, whose
#: rest then falls away as noise (the antennas of the demo capture did); the surface voxels within
#: one spacing are averaged, so there are no more points for it, and they lie between voxels.
_SUBDIVISION = 2
_CHILDREN = np.array(list(np.ndindex(2, 2, 2)), dtype=np.int64)


class _TooManyVoxelsError(Exception):
    """A grid would have `excess` times as many voxels as are allowed."""

    def __init__(self, excess: float):
        super().__init__(excess)
        self.excess = excess


@dataclass(frozen=True)
class HullSettings:
    """How a hull is carved. All lengths are relative to the rig or the image.

    mask_ratio: a voxel stays when at least this share of the cameras that see it have it in their
        mask. Below 1, so that one wrong mask in twenty takes nothing away.
    min_views: and when at least this share of the cameras that vote see it, never fewer than
        `min_view_count` (or all of them, where there are fewer).
    dilation: the masks are widened by this fraction of the image's longer side (1 px of 640), by
        at least one pixel, because voxels can miss what is thinner than they are; 0 for exact ones.
    min_mask_area: mask components below this fraction of the image are noise (40 px of 640x360).
    pixels_per_point: the spacing of the points, in pixels of the median camera. Training overfits
        with points finer than about three pixels, unless coarser ones find the surface first.
    max_points: the spacing grows until there are at most so many.
    min_component: connected groups with a smaller share of the points are noise.
    """

    mask_ratio: float = 0.95
    min_views: float = 0.25
    min_view_count: int = 3
    dilation: float = 1 / 640
    min_mask_area: float = 40 / (640 * 360)
    pixels_per_point: float = 3.4
    max_points: int = 262_144
    min_component: float = 0.002

    def __post_init__(self) -> None:
        valid = (
            0 < self.mask_ratio <= 1
            and 0 <= self.min_views <= 1
            and self.min_view_count >= 1
            and self.dilation >= 0
            and self.min_mask_area >= 0
            and 0 < self.pixels_per_point < np.inf
            and self.max_points >= 1
            and 0 <= self.min_component < 1
        )
        if not valid:
            raise ReconstructionError(f"the settings of the visual hull are out of range: {self}")


@dataclass(frozen=True, eq=False)
class Grid:
    """A box of voxels: origin (3,) its low corner, spacing the voxel size, size (3,) int64."""

    origin: np.ndarray
    spacing: float
    size: np.ndarray

    def centres(self, cells: np.ndarray, scale: int = 1) -> np.ndarray:
        """Centres (N, 3) of cells (N, 3) of the grid that is `scale` times coarser."""
        return self.origin + (cells + 0.5) * (self.spacing * scale)


def visual_hull(
    cameras: Sequence[Camera],
    masks: Sequence[np.ndarray | None],
    settings: HullSettings | None = None,
    *,
    bounds: np.ndarray | None = None,
    spacing: float | None = None,
) -> Points:
    """The surface points of the space that the masks of one frame allow.

    cameras: V cameras. masks: V arrays (H, W), true on the subject, or None where there is none.
    A camera votes on a voxel when it sees it, that is, when the voxel projects into its image
    from beyond its near plane; cameras without a mask, or with an empty one (a warning), abstain.
    bounds: (2, 3) world box to search; otherwise it follows from the cameras (`rig_bounds`).
    spacing: of the points in world units; otherwise `pixels_per_point` pixels at the box's centre.
    Neither of them depends on the masks, so all frames of a static rig get the same voxels, unless
    `max_points` widens the spacing: pass that of the first frame's result on to the others then.
    Returns one point per occupied cell of `spacing`: the mean of the voxels in it that stay and
    touch one that does not, with normals and the number of cameras that see them.
    Raises ReconstructionError where fewer than two cameras vote, the bounds are not known, nothing
    is left, or the grid would be too fine.
    Source: 4K4D (space carving), method.md section 1.
    """
    settings = settings or HullSettings()
    check_cameras(cameras)
    voters = silhouettes(
        cameras, masks, dilation=settings.dilation, min_area=settings.min_mask_area
    )
    if len(voters) < 2:
        raise ReconstructionError(
            "only one camera has a mask with anything in it in this frame",
            hint="A visual hull needs masks of the subject from several cameras",
        )
    box = rig_bounds(cameras) if bounds is None else np.asarray(bounds, dtype=np.float64)
    if box.shape != (2, 3) or not np.isfinite(box).all() or (box[0] >= box[1]).any():
        raise ReconstructionError(f"the bounds are not a box: {box.tolist()}")
    if spacing is None:
        spacing = settings.pixels_per_point * pixel_size(cameras, box.mean(axis=0))
    if not 0 < spacing < np.inf:
        raise ReconstructionError(f"the point spacing must be above 0, not {spacing}")
    while True:
        try:
            points = _carve_surface(voters, settings, box, spacing)
            excess = len(points) / settings.max_points
        except _TooManyVoxelsError as error:
            excess = error.excess
        if excess <= 1:
            break
        spacing *= max(1.05, 1.02 * np.sqrt(excess))
        logger.warning("the hull has too many points; their spacing was widened to %g", spacing)
    least = max(2, int(np.ceil(settings.min_component * len(points))))
    return remove_outliers(points, min_component=least)


def make_grid(box: np.ndarray, spacing: float) -> Grid:
    """Voxels of size `spacing` (rounded up to whole ones) that fill a box (2, 3)."""
    size = np.maximum(1, np.ceil((box[1] - box[0]) / spacing * (1 - 1e-9)))
    if size.max() > MAX_CELLS:
        raise ReconstructionError(
            f"the scene is {size.max():.0f} voxels wide", hint="Use a larger spacing"
        )
    return Grid(np.asarray(box[0], dtype=np.float64), float(spacing), size.astype(np.int64))


@dataclass(frozen=True, eq=False)
class Carved:
    """The voxels that stayed.

    cells: (N, 3) int64; keys: (N,) int64, `pack`ed, sorted; views: (N,) int32. They lack the voxels
    deep inside, which are in `interior`: {scale: sorted keys of the grid `scale` times coarser}.
    """

    cells: np.ndarray
    keys: np.ndarray
    views: np.ndarray
    interior: dict[int, np.ndarray]

    def contains(self, cells: np.ndarray) -> np.ndarray:
        """Which cells (..., 3) of the fine grid stayed: bool (...)."""
        inside = find(self.keys, pack(cells)) >= 0
        for scale, keys in self.interior.items():
            rest = np.nonzero(~inside)
            inside[rest] = find(keys, pack(cells[rest] // scale)) >= 0
        return inside


def carve(voters: Sequence[Silhouette], grid: Grid, settings: HullSettings) -> Carved:
    """Carve a grid coarse to fine; what stays is exactly what voting on every voxel would leave.

    A coarse voxel is dropped only when the bounds of `vote` say that none of its fine voxels can
    stay. One that certainly stays, and all of its 26 neighbours too, is set aside as interior.
    """
    min_views = max(settings.min_view_count, int(np.ceil(settings.min_views * len(voters))))
    min_views = min(min_views, len(voters))
    scale = 1
    while grid.size.max() > scale * _ROOT_CELLS:
        scale *= 2
    cells = np.stack(
        np.meshgrid(*(np.arange(-(-n // scale)) for n in grid.size), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    interior: dict[int, np.ndarray] = {}
    while True:
        half_diagonal = np.sqrt(3) / 2 * grid.spacing * scale if scale > 1 else 0.0
        possible, certain, views = vote(
            grid.centres(cells, scale), half_diagonal, voters, settings.mask_ratio, min_views
        )
        if scale == 1:
            cells = cells[possible]
            return Carved(cells, pack(cells), views[possible], interior)
        # A coarse voxel that sticks out of the grid is not all inside.
        certain &= ((cells + 1) * scale <= grid.size).all(axis=1)
        deep = np.flatnonzero(certain)
        keys = pack(cells[deep])
        for offset in ALL_NEIGHBOURS:
            neighbour = cells[deep] + offset
            kept = find(keys, pack(neighbour)) >= 0
            for coarser, coarse_keys in interior.items():
                kept |= find(coarse_keys, pack(neighbour // (coarser // scale))) >= 0
            deep = deep[kept]
        if len(deep):
            interior[scale] = pack(cells[deep])
        possible[deep] = False
        cells = cells[possible]
        if len(cells) * 8 > _MAX_VOXELS:
            # What is left is near the surface and quadruples with every level.
            raise _TooManyVoxelsError(len(cells) * 8 * (scale // 2) ** 2 / _MAX_VOXELS)
        scale //= 2
        cells = (cells[:, None, :] * 2 + _CHILDREN).reshape(-1, 3)
        cells = cells[(cells * scale < grid.size).all(axis=1)]
        cells = cells[np.argsort(pack(cells))]


def _carve_surface(voters, settings, box, spacing):
    """The surface of the hull at one spacing, as Points with normals."""
    grid = make_grid(box, spacing / _SUBDIVISION)
    carved = carve(voters, grid, settings)
    if not len(carved.cells):
        raise ReconstructionError(
            "the visual hull is empty: no place is in the masks of the cameras that see it",
            hint="Check the masks and the calibration (`peel4d info`), or lower the mask ratio",
        )
    open_side = np.zeros(len(carved.cells), dtype=bool)
    for offset in FACE_NEIGHBOURS:
        open_side |= ~carved.contains(carved.cells + offset)
    cells = carved.cells[open_side]
    normal = np.zeros((len(cells), 3))
    for offset in ALL_NEIGHBOURS:
        outside = ~carved.contains(cells + offset)
        normal[outside] += offset / np.linalg.norm(offset)
    _, group, size = np.unique(pack(cells // _SUBDIVISION), return_inverse=True, return_counts=True)
    position = mean_by_group(grid.centres(cells), group, size)
    normal = mean_by_group(normal, group, size)
    views = mean_by_group(carved.views[open_side][:, None], group, size)[:, 0]
    return Points(position, spacing, unit_or_zero(normal), np.rint(views))
