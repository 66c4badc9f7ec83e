"""What one camera takes for the subject must be possible for the others too.

The masks of a frame carve two hulls. Of the generous one every part of the subject must be a
picture: mask pixels outside of it go. Of the strict one, in which nearly all cameras agree, every
pixel is the subject: gaps of a mask inside of it are filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ReconstructionError
from ..geometry.rig import pixel_size, rig_bounds
from ..geometry.silhouettes import silhouettes
from ..geometry.visual_hull import Grid, HullSettings, carve, make_grid
from ..render.camera import Camera
from .cleanup import BACKGROUND, MIN_AREA, PERHAPS_BACKGROUND, SUBJECT, UNKNOWN, decide

#: The hulls are carved from masks of this longer side: they correct areas, not edges.
_SIDE = 400
#: Voxel size, pixels of these masks.
_VOXEL = 2.5
#: Cameras that must see a voxel; below this many masks nothing can be compared.
MIN_VIEWS = 4
#: Shares of the cameras that see a voxel and have it in their mask. The generous hull takes the
#: firm one where the masks agree.
_GENEROUS, _FIRM, _STRICT = 0.6, 0.85, 0.9
#: A place that fewer of them see is no proof that a mask is right.
_WELL_SEEN = 0.5
#: A camera sees nothing of the subject nearer than this share of the middle distance of the hull:
#: there, behind the subject as the opposite cameras see it, hulls have phantoms.
_NEAR = 0.3
#: Where the generous hull explains less than this share of the masks they contradict each other,
#: and what it does not explain is unknown instead of background.
_TRUST = 0.6
#: A mask that agrees less with the strict hull has parts of the subject in its background. (Exact
#: masks of 12 cameras agree to 0.8, because a hull is more than its subject.)
CONTRADICTED = 0.65


@dataclass(frozen=True, eq=False)
class Agreement:
    """The masks of one frame after the comparison.

    masks: per view (H, W) uint8, BACKGROUND, UNKNOWN or SUBJECT; None where there was none.
    agreement: per view the intersection over union of its SUBJECT and the picture of the strict
    hull, None where it is not known.
    """

    masks: list[np.ndarray | None]
    agreement: list[float | None]


def agree(
    cameras: Sequence[Camera],
    graded: Sequence[np.ndarray | None],
    bounds: np.ndarray | None = None,
    *,
    doubt: bool = True,
) -> Agreement:
    """Compare the graded masks (see `cleanup.grade`) of one frame's cameras.

    graded: (H, W) uint8 per camera or None. bounds: (2, 3) box of the subject, where it is known.
    Unknown pixels vote for the subject, because an unknown pixel must not carve. With fewer than
    MIN_VIEWS masks, or cameras that do not converge, masks stay as they are.
    doubt: background of a mask that the others contradict becomes unknown where the hull allows
    the subject.
    """
    plain = [None if mask is None else decide(mask) for mask in graded]
    nothing = Agreement(plain, [None] * len(plain))
    votes = [
        index
        for index, mask in enumerate(plain)
        if mask is not None and (mask == SUBJECT).any() and (mask != UNKNOWN).any()
    ]
    if len(votes) < MIN_VIEWS:
        return nothing
    small = {index: _shrink(cameras[index], plain[index]) for index in votes}
    working = [small[index][0] for index in votes]
    try:
        box = rig_bounds(working) if bounds is None else np.asarray(bounds, np.float64)
        grid = make_grid(box, _VOXEL * pixel_size(working, box.mean(axis=0)))
        voters = silhouettes(
            working, [small[i][1] for i in votes], dilation=1 / _SIDE, min_area=MIN_AREA
        )
        if len(voters) < MIN_VIEWS:
            return nothing
        base = HullSettings(min_views=0.25, min_view_count=MIN_VIEWS, dilation=1 / _SIDE)
        strict = carve(voters, grid, replace(base, mask_ratio=_STRICT)).cells
        certain = {i: _picture(small[i][0], grid, strict) for i in votes}
        agreement = {i: _overlap(small[i][2], certain[i]) for i in votes}
        # Good masks support each other firmly; masks with gaps need the generous hull.
        consistent = float(np.median(list(agreement.values()))) >= CONTRADICTED
        ratio = _FIRM if consistent else _GENEROUS
        carved = carve(voters, grid, replace(base, mask_ratio=ratio))
    except ReconstructionError:
        return nothing  # the axes do not meet: nothing is known about the space they share
    # What few cameras see together is where phantoms are, and no proof of anything.
    well_seen = carved.cells[carved.views >= _WELL_SEEN * len(voters)]
    possible = {i: _picture(small[i][0], grid, carved.cells) for i in votes}
    explained = sum(int((small[i][1] & possible[i]).sum()) for i in votes)
    trusted = explained >= _TRUST * sum(int(small[i][1].sum()) for i in votes)
    masks = list(plain)
    for index, mask in enumerate(plain):
        if mask is None:
            continue
        camera = small[index][0] if index in small else _shrink(cameras[index], mask)[0]
        if index not in small:
            certain[index] = _picture(camera, grid, strict)
            possible[index] = _picture(camera, grid, carved.cells)
        likely = _picture(camera, grid, well_seen)
        masks[index] = _apply(
            mask,
            graded[index],
            (possible[index], likely, certain[index]),
            trusted,
            contradicted=doubt and agreement.get(index, 0.0) < CONTRADICTED,
        )
    return Agreement(masks, [agreement.get(i) for i in range(len(plain))])


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks; 0 where both are empty."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def _apply(mask, graded, pictures, trusted, contradicted):
    """The mask with what the pictures of the hulls (of the working size) say about it.

    pictures: where the subject may be, where it is likely, and where nearly all cameras see it.
    """
    import cv2

    # The picture of voxels is rough: a margin of one pixel of the working size on either side.
    kernel = np.ones((3, 3), np.uint8)

    def full(picture: np.ndarray, change) -> np.ndarray:
        changed = change(picture.astype(np.uint8), kernel)
        size = (mask.shape[1], mask.shape[0])
        return cv2.resize(changed, size, interpolation=cv2.INTER_NEAREST) > 0

    possible, likely = (full(picture, cv2.dilate) for picture in pictures[:2])
    certain = full(pictures[2], cv2.erode)
    result = mask.copy()
    if trusted:
        result[~likely & (mask == SUBJECT)] = UNKNOWN
        result[~possible] = BACKGROUND
        result[certain & (graded == PERHAPS_BACKGROUND)] = SUBJECT
        if contradicted:
            result[possible & (result == BACKGROUND)] = UNKNOWN
    else:
        result[~possible & (mask == SUBJECT)] = UNKNOWN
    return result


def _shrink(camera: Camera, mask: np.ndarray) -> tuple[Camera, np.ndarray, np.ndarray]:
    """Camera and mask (bool) at the working size: where the subject may be, and where it is."""
    import cv2

    longer = max(mask.shape)
    height, width = (max(1, round(side * min(1.0, _SIDE / longer))) for side in mask.shape)
    smaller = [
        cv2.resize(which.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5
        for which in (mask != BACKGROUND, mask == SUBJECT)
    ]
    return camera.scaled(width, height), *smaller


def _picture(camera: Camera, grid: Grid, cells: np.ndarray) -> np.ndarray:
    """The pixels (H, W) bool that voxels (N, 3) cover: squares of their size."""
    import cv2

    picture = np.zeros((camera.height, camera.width), np.uint8)
    if not len(cells):
        return picture > 0
    uv, z = camera.project(grid.centres(cells))
    focal = float(np.sqrt(camera.K[0, 0] * camera.K[1, 1]))
    near = max(camera.near, 0 if camera.orthographic else _NEAR * float(np.median(z)))
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = 0.5 * grid.spacing * focal / (1.0 if camera.orthographic else z)
        inside = (z > near) & (
            np.abs(uv - 0.5 * np.array([camera.width, camera.height]))
            < 0.5 * np.array([camera.width, camera.height])
        ).all(axis=1)
    uv, radius = uv[inside].astype(np.int64), np.ceil(reach[inside]).clip(0, 64).astype(np.int64)
    for value in np.unique(radius):
        layer = np.zeros_like(picture)
        which = radius == value
        layer[uv[which, 1], uv[which, 0]] = 1
        picture |= cv2.dilate(layer, np.ones((2 * value + 1, 2 * value + 1), np.uint8))
    return picture > 0
