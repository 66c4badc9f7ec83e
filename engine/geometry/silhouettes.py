"""Masks as voters: which cameras see a voxel, and which of them see the subject there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ReconstructionError
from ..render.camera import Camera

logger = logging.getLogger(__name__)

#: Masks with a longer side than this are pooled by a whole factor first: the voxels of a capture
#: are several pixels wide, and the distance maps of a large 4K rig would fill the memory.
_WORKING_SIDE = 2048
#: Voxels that are projected at once (bounds the temporaries, and they stay in the cache).
_CHUNK = 1 << 15
#: Two points at distance d lie in pixels whose centres are at most d + sqrt(2) apart.
_PIXEL_SLACK = float(np.sqrt(2.0))
#: A division by less could overflow and put NaN into a projection.
_SMALLEST_Z = 1e-12


@dataclass(frozen=True, eq=False)
class Silhouette:
    """One camera that votes.

    camera: the camera at the resolution of `distance`; its view covers `extent` (width, height)
        pixels of it, which need not be whole.
    distance: (H, W) float32, pixels, see `signed_distance`.
    dilation: pixels by which the mask is widened when it votes.
    """

    camera: Camera
    distance: np.ndarray
    extent: tuple[float, float]
    dilation: float


def clean_mask(mask: np.ndarray, min_area: float) -> np.ndarray:
    """The mask (H, W) bool without connected components (8-neighbours) of fewer pixels."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area
    keep[0] = False  # the background
    return mask if count == 1 or keep[1:].all() else keep[labels]


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of pixel centres to the rim of a bool mask (H, W), pixels, float32.

    Positive outside the mask, negative inside; the rim runs halfway between pixel centres.
    """
    import cv2

    inside = np.ascontiguousarray(mask, dtype=np.uint8)
    outer = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if mask.all():
        # Nothing outside in the picture, and what is beyond its border is nobody's business.
        return np.full(mask.shape, -float(max(mask.shape)), dtype=np.float32)
    inner = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(inside, 0.5 - inner, outer - 0.5)


def silhouettes(
    cameras: Sequence[Camera],
    masks: Sequence[np.ndarray | None],
    *,
    dilation: float,
    min_area: float,
) -> list[Silhouette]:
    """The voters of one frame: cameras whose mask is there and not empty; the others abstain.

    masks: (H, W), true on the subject, of the size of their camera, or None.
    dilation: fraction of the image's longer side, but at least one pixel unless it is 0.
    min_area: smallest component that counts, fraction of the image's area.
    Raises ReconstructionError for masks of another size and where no camera is left.
    """
    if len(cameras) != len(masks):
        raise ReconstructionError(f"{len(masks)} masks were given for {len(cameras)} cameras")
    voters, empty = [], []
    for index, (camera, mask) in enumerate(zip(cameras, masks, strict=True)):
        if mask is None:
            continue
        mask = np.asarray(mask) != 0
        if mask.shape != (camera.height, camera.width):
            raise ReconstructionError(
                f"the mask is {mask.shape[::-1]} pixels, the camera {camera.width, camera.height}",
                where=f"camera {index}",
                hint="Masks must have the size of their images",
            )
        mask = clean_mask(mask, min_area * mask.size)
        if not mask.any():
            empty.append(index)
            continue
        pool = -(-max(mask.shape) // _WORKING_SIDE)
        if pool > 1:
            height, width = (-(-side // pool) for side in mask.shape)
            padded = np.zeros((height * pool, width * pool), dtype=bool)
            padded[: mask.shape[0], : mask.shape[1]] = mask
            mask = padded.reshape(height, pool, width, pool).any(axis=(1, 3))
        extent = (camera.width / pool, camera.height / pool)
        widening = max(dilation * max(extent), 1.0) if dilation > 0 else 0.0
        K = np.diag([1 / pool, 1 / pool, 1.0]) @ camera.K
        working = Camera(
            K,
            camera.R,
            camera.t,
            mask.shape[1],
            mask.shape[0],
            camera.near,
            camera.far,
            camera.orthographic,
        )
        voters.append(Silhouette(working, signed_distance(mask), extent, widening))
    if empty:
        logger.warning(
            "the masks of %d of %d cameras are empty in this frame; they do not vote (cameras %s)",
            len(empty),
            len(cameras),
            ", ".join(map(str, empty)),
        )
    if not voters:
        raise ReconstructionError(
            "there is no mask with anything in it in this frame",
            hint="A visual hull needs masks of the subject from several cameras",
        )
    return voters


def vote(
    centres: np.ndarray,
    half_diagonal: float,
    voters: Sequence[Silhouette],
    ratio: float,
    min_views: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let the cameras vote on voxels: covered / seen >= ratio and seen >= min_views.

    centres: (N, 3) float64. half_diagonal: 0 asks about the centres themselves; above 0 it asks
    about *all* points within that distance of the centre.
    Returns bool (N,) `possible`: some point there can be kept, bool (N,) `certain`: every point
    there is kept, and int32 (N,) the number of cameras that can see one of them. At half_diagonal
    0 the first two are the same.

    Bounds: a point at most h away from the centre projects at most
    f h sqrt(1 + |q|^2) / (z - h) pixels away from it, q = (x, y) / z, because the matrix [I | -q]
    that maps the offset has the norm sqrt(1 + |q|^2).
    """
    n = len(centres)
    possible = np.zeros(n, dtype=bool)
    certain = np.zeros(n, dtype=bool)
    views = np.zeros(n, dtype=np.int32)
    for begin in range(0, n, _CHUNK):
        part = slice(begin, min(begin + _CHUNK, n))
        possible[part], certain[part], views[part] = _vote_chunk(
            centres[part], half_diagonal, voters, ratio, min_views
        )
    return possible, certain, views


def _vote_chunk(centres, half_diagonal, voters, ratio, min_views):
    n = len(centres)
    # Rounding must not turn 19 of 20 into less than 0.95.
    ratio = ratio - 1e-9
    alive = np.arange(n)
    # How many cameras may / must cover, see and miss each alive voxel.
    may_cover, must_cover, may_see, must_see, may_miss, must_miss = np.zeros((6, n), np.int32)
    for done, voter in enumerate(voters, start=1):
        seen_may, seen_must, cover_may, cover_must = _judge(centres[alive], half_diagonal, voter)
        may_see += seen_may
        must_see += seen_must
        may_cover += seen_may & cover_may
        must_cover += seen_must & cover_must
        may_miss += seen_may & ~cover_must
        must_miss += seen_must & ~cover_may
        # Drop what cannot be saved even if all cameras to come cover it.
        best = may_cover + (len(voters) - done)
        hope = (best >= ratio * (best + must_miss)) & (may_see + len(voters) - done >= min_views)
        if not hope.all():
            alive = alive[hope]
            may_cover, must_cover, may_see, must_see, may_miss, must_miss = (
                count[hope]
                for count in (may_cover, must_cover, may_see, must_see, may_miss, must_miss)
            )
    possible = np.zeros(n, dtype=bool)
    certain = np.zeros(n, dtype=bool)
    views = np.zeros(n, dtype=np.int32)
    possible[alive] = (may_cover > 0) & (may_see >= min_views)
    certain[alive] = (must_cover >= ratio * (must_cover + may_miss)) & (must_see >= min_views)
    views[alive] = may_see
    return possible, certain, views


def _judge(points, half_diagonal, voter):
    """For each ball: may / must the camera see it, may / must it be covered (four bool (N,))."""
    camera = voter.camera
    u, v, z = camera.image_of(points)
    near = max(camera.near, _SMALLEST_Z)
    in_front = z - half_diagonal > near
    # What reaches behind the near plane has no bounded projection; it is judged below.
    behind = np.flatnonzero(~in_front)
    u[behind] = v[behind] = 0.0
    width, height = voter.extent
    column = np.clip(u, 0, camera.width - 1).astype(np.int32)
    row = np.clip(v, 0, camera.height - 1).astype(np.int32)
    distance = voter.distance[row, column]
    if half_diagonal == 0:
        seen = in_front & (z < camera.far) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
        covered = distance <= voter.dilation
        return seen, seen, covered, covered
    reach = np.linalg.norm(camera.K[:2, :2], 2) * half_diagonal
    if not camera.orthographic:
        squared = (camera.rays(u, v) ** 2).sum(axis=-1)
        reach = reach * np.sqrt(squared) / np.where(in_front, z - half_diagonal, 1.0)
    straddles = ~in_front & (z + half_diagonal > near)
    touches = (u + reach >= 0) & (v + reach >= 0) & (u - reach < width) & (v - reach < height)
    inside = (u - reach >= 0) & (v - reach >= 0) & (u + reach < width) & (v + reach < height)
    may_see = straddles | (in_front & touches & (z - half_diagonal < camera.far))
    must_see = in_front & inside & (z + half_diagonal < camera.far)
    may_cover = straddles | (distance <= voter.dilation + reach + _PIXEL_SLACK)
    must_cover = in_front & (distance <= voter.dilation - reach - _PIXEL_SLACK)
    return may_see, must_see, may_cover, must_cover
