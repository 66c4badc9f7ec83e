"""Depth of a static scene by plane sweep: one coarse inverse depth map per view.

Every plane of constant depth in front of a view is a homography to each neighbour. A pixel's depth
is where the neighbours, warped by it, look like the view around that pixel. The likeness is the
normalised cross-correlation of small windows, which does not see the cameras' gains and offsets;
a little noise in its denominator keeps windows without texture from looking like anything.
Semi-global matching (Hirschmueller 2008, four paths) then prefers neighbouring pixels on
neighbouring planes. OpenCV does the warps: on a CPU they are faster than torch's grid_sample, and
this room needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ReconstructionError
from ..machine import in_threads
from ..render.camera import Camera
from .rig import focus_point

#: Rows between the planes that are blurred as one tall image, so that they do not mix.
_GAP = 4
#: What a warp leaves where the neighbour's image has ended.
_OUTSIDE = -1e4
#: The triangulation angle that serves best, degrees, and how quickly others are worse (log scale).
_BEST_ANGLE, _ANGLE_SPREAD = 12.0, 0.8
#: Where a view's frustum is looked at, in distances to the scene's centre.
_FRUSTUM_SAMPLES = (0.5, 0.7, 1.0, 1.6, 2.4)
#: A neighbour that shares less than this of a view's frustum is none.
_MIN_OVERLAP = 0.02
#: `refine`: depths on either side, their distance in steps of the sweep, window and grey levels of
#: noise; the images are larger, so windows and noise are, too.
_REFINED_PLANES, _REFINED_STEP = 6, 0.5
_REFINED_WINDOW, _REFINED_NOISE = 7, 4.0
#: A view that has measured so much of its picture is not swept; its map is so many times as large.
_MEASURED, _MEASURED_SIZE = 0.8, 2


@dataclass(frozen=True)
class SweepSettings:
    """How a scene is swept. Lengths are relative to the images or to the rig.

    longer_side: of the depth maps, pixels. neighbours: compared with each view, at most.
    window: of the cross-correlation, pixels. noise: of the images, grey levels of 255, at the
    depth maps' size. nearest: the first plane's distance, in distances to the scene's centre.
    step_px: how far a pixel moves in the median neighbour from one plane to the next.
    planes: (fewest, most). small_step, large_step: penalties of semi-global matching for a
    neighbouring pixel on the next plane, and on any other.
    """

    longer_side: int = 160
    neighbours: int = 8
    window: int = 5
    noise: float = 3.0
    nearest: float = 0.35
    step_px: float = 1.0
    planes: tuple[int, int] = (48, 128)
    small_step: float = 0.02
    large_step: float = 0.3


@dataclass(frozen=True, eq=False)
class InverseDepth:
    """One view's surface. camera: at the size of the maps.

    inverse: (H, W) float32, 1 / z in 1 / world units. confidence: (H, W) float32 in [0, 1].
    step: distance of the sweep's planes, the scale of its errors, 1 / world units.
    sensed: (H, W) bool, what a sensor has measured, which needs nobody to confirm it; or None.
    """

    camera: Camera
    inverse: np.ndarray
    confidence: np.ndarray
    step: float
    sensed: np.ndarray | None = None


def scene_centre(cameras: Sequence[Camera], bounds: np.ndarray | None = None) -> np.ndarray:
    """Where the cameras look, (3,): the middle of the bounds, or where the axes meet.

    Parallel axes meet nowhere; the centre is then ten times as far away as the cameras are apart.
    """
    if bounds is not None:
        return np.asarray(bounds, dtype=np.float64).mean(axis=0)
    try:
        return focus_point(cameras)
    except ReconstructionError:
        centres = np.stack([camera.centre for camera in cameras])
        forward = np.mean([camera.forward for camera in cameras], axis=0)
        spread = np.linalg.norm(centres - centres.mean(axis=0), axis=1).mean()
        return centres.mean(axis=0) + 10 * spread * forward / max(np.linalg.norm(forward), 1e-9)


def sweep(
    cameras: Sequence[Camera],
    images: Sequence[np.ndarray],
    centre: np.ndarray,
    settings: SweepSettings | None = None,
    *,
    measured: Sequence[np.ndarray | None] | None = None,
) -> list[InverseDepth | None]:
    """The inverse depth of every view, None for one that has no neighbours.

    cameras: V, perspective. images: V arrays (H, W, 3) uint8 RGB of a scene that does not move.
    centre: (3,), see `scene_centre`; depths from a part of its distance to infinity are tried.
    measured: V arrays (H, W) of camera-space z where a sensor knows it, else 0; or None. What was
    measured is believed, and views that know most of their picture are not swept at all.
    """
    settings = settings or SweepSettings()
    small = [_small(*pair, settings.longer_side) for pair in zip(cameras, images, strict=True)]
    reduced = [camera for camera, _ in small]
    chosen = [
        choose_neighbours(reduced, view, centre, settings.neighbours)
        for view in range(len(reduced))
    ]
    measured = [None] * len(cameras) if measured is None else measured

    def one(view):
        if not chosen[view]:
            return None
        depth = measured[view]
        inverse = _planes(reduced, view, chosen[view], centre, settings)
        if depth is None:
            return _sweep_view(small, view, chosen[view], inverse, settings)
        if not _knows_most(depth):
            return believed(_sweep_view(small, view, chosen[view], inverse, settings), depth)
        size = _MEASURED_SIZE * settings.longer_side
        camera, grey = _small(cameras[view], images[view], size)
        step = float(inverse[1] - inverse[0]) / _MEASURED_SIZE
        far, unsure = np.full(grey.shape, step, np.float32), np.zeros(grey.shape, np.float32)
        return believed(InverseDepth(camera, far, unsure, step), depth)

    return in_threads(one, range(len(small)))


def _knows_most(depth):
    return (depth > 0).mean() >= _MEASURED


def believed(surface: InverseDepth, depth: np.ndarray) -> InverseDepth:
    """A view's surface with what a sensor measured (H, W), camera-space z, 0 = unknown, instead.

    A pixel of the map is known where all of its part of the picture lies within two steps, so that
    none is between a thing and what is behind it.
    """
    import cv2

    size = surface.camera.width, surface.camera.height
    with np.errstate(divide="ignore"):
        inverse = np.where(depth > 0, 1 / depth, 0).astype(np.float32)
    window = np.ones([-(-big // small) for big, small in zip(depth.shape, size[::-1], strict=True)])
    nearest = cv2.dilate(inverse, window)
    farthest = cv2.erode(inverse, window)
    even = (depth > 0) & (nearest - farthest <= 2 * surface.step)
    share = cv2.resize(even.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(np.where(even, inverse, 0), size, interpolation=cv2.INTER_AREA)
    known = share > 0.5
    return replace(
        surface,
        inverse=np.where(known, mean / np.maximum(share, 1e-6), surface.inverse),
        confidence=np.where(known, np.float32(1), surface.confidence),
        sensed=known,
    )


def choose_neighbours(
    cameras: Sequence[Camera], view: int, centre: np.ndarray, count: int
) -> list[int]:
    """The other views that together say most about the depth of `view`, best first.

    They see much of its frustum, before the centre and behind it, from another side, but not so
    much of another side that things look different. What one sees counts less in the next, so that
    every part of the view is seen by some.
    """
    camera = cameras[view]
    distance = np.linalg.norm(camera.centre - centre)
    columns, rows = np.meshgrid(
        np.linspace(0.04, 0.96, 9) * camera.width, np.linspace(0.04, 0.96, 7) * camera.height
    )
    rays = camera.rays(columns.ravel(), rows.ravel())
    points = np.concatenate(
        [(rays * (f * distance) - camera.t) @ camera.R for f in _FRUSTUM_SAMPLES]
    )
    gains = np.zeros((len(cameras), len(points)))
    beside = np.zeros(len(cameras), dtype=bool)
    for index, other in enumerate(cameras):
        if index == view:
            continue
        uv, z = other.project(points)
        with np.errstate(invalid="ignore"):
            seen = (z > 0) & (uv >= 0).all(axis=1)
            seen &= (uv[:, 0] < other.width) & (uv[:, 1] < other.height)
        a, b = points - camera.centre, points - other.centre
        cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        deviation = np.log(np.maximum(angle, 0.1) / _BEST_ANGLE) / _ANGLE_SPREAD
        gains[index] = seen * np.exp(-0.5 * deviation**2)
        beside[index] = (seen & (angle < _BEST_ANGLE)).mean() > _MIN_OVERLAP
    left = gains.mean(axis=1) > _MIN_OVERLAP
    if not left.any():  # a stereo pair before a distant scene: little depth, but some
        left = beside
    chosen, unseen = [], np.ones(len(points))
    while left.any() and len(chosen) < count:
        scores = np.where(left, (unseen * (1 - np.exp(-gains))).mean(axis=1), -1)
        best = int(scores.argmax())
        chosen.append(best)
        left[best] = False
        unseen *= np.exp(-gains[best])
    return chosen


def _small(camera: Camera, image: np.ndarray, longer_side: int) -> tuple[Camera, np.ndarray]:
    """A view at the size of the depth maps: its camera and grey levels (H, W) float32."""
    import cv2

    factor = min(1.0, longer_side / max(camera.width, camera.height))
    size = max(2, round(camera.width * factor)), max(2, round(camera.height * factor))
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return camera.scaled(*size), grey


def _planes(cameras, view, neighbours, centre, settings):
    """The inverse depths that are tried, (D,)."""
    camera = cameras[view]
    distance = float(np.linalg.norm(camera.centre - centre))
    # The first plane's disparity in the median neighbour decides how many planes there are.
    baselines = [np.linalg.norm(camera.centre - cameras[i].centre) for i in neighbours]
    focal = float(np.sqrt(camera.K[0, 0] * camera.K[1, 1]))
    nearest = 1.0 / (settings.nearest * distance)
    planes = focal * float(np.median(baselines)) * nearest / settings.step_px
    return np.linspace(0.0, nearest, int(np.clip(planes, *settings.planes)))


def _sweep_view(small, view, neighbours, inverse, settings):
    camera, grey = small[view]
    likeness = np.stack([_likeness(camera, grey, *small[i], inverse, settings) for i in neighbours])
    step = float(inverse[1] - inverse[0])
    found, confidence = _best_plane(_better_half(likeness), 4, settings)
    return InverseDepth(camera, np.float32(found * step), confidence, step)


def _better_half(likeness):
    """(V, D, H, W) -> (D, H, W): the mean of the better half of the neighbours that see a place.

    What hides a point in some neighbours does not hide it in all. Likenesses are exactly zero where
    a neighbour has no picture; one neighbour alone counts half.
    """
    most = max(min(2, len(likeness)), len(likeness) // 2)
    best = np.full((most, *likeness.shape[1:]), -1, dtype=np.float32)
    count = np.zeros(likeness.shape[1:], dtype=np.uint8)
    for one in likeness:  # insertion: a sort along this axis takes four times as long
        sees = one != 0
        count += sees
        one = np.where(sees, one, np.float32(-1))
        for rank in best:
            one, rank[...] = np.minimum(rank, one), np.maximum(rank, one)
    half = np.clip((count + 1) // 2, min(2, most), most)
    total = np.zeros(likeness.shape[1:], dtype=np.float32)
    for index, rank in enumerate(best):
        total += np.where(index < np.minimum(half, count), rank, 0)
    return total / half


def _likeness(camera, grey, other, other_grey, inverse, settings):
    """Normalised cross-correlation (D, H, W) of a view and a neighbour through every plane."""
    import cv2

    height, width = grey.shape
    R = other.R @ camera.R.T
    t = other.t - R @ camera.t
    # OpenCV counts from the centre of the first pixel.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    after, before = np.linalg.inv(half) @ other.K, np.linalg.inv(camera.K) @ half
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)], axis=1)
    corners = pixels[[0, width - 1, -width, -1]]
    tall = np.full((len(inverse), height + _GAP, width), _OUTSIDE, dtype=np.float32)
    warped = np.empty((height, width), dtype=np.float32)
    for plane, w in enumerate(inverse):
        H = after @ (R + np.outer(t, [0, 0, 1]) * w) @ before
        cv2.warpPerspective(
            other_grey,
            H,
            (width, height),
            warped,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=_OUTSIDE,
        )
        behind = corners @ H[2] <= 0
        if behind.any():  # the neighbour has no picture of it, but a homography has
            warped[np.reshape(pixels @ H[2] <= 0, warped.shape)] = _OUTSIDE
        tall[plane, :height] = warped
    return _correlation(grey, tall, settings.window, settings.noise)


def _correlation(grey, tall, size, noise):
    """Normalised cross-correlation (D, H, W) of an image with D warped ones, window by window.

    tall: (D, H + _GAP, W) float32, _OUTSIDE where there is no picture; is overwritten.
    """
    import cv2

    height, width = grey.shape
    window = (size, size)

    def blur(stack):
        flat = cv2.blur(stack.reshape(-1, width), window)
        return flat.reshape(tall.shape)[:, :height]

    mean = cv2.blur(grey, window)
    variance = np.maximum(cv2.blur(grey * grey, window) - mean * mean, 0)
    padded = np.zeros((height + _GAP, width), dtype=np.float32)
    padded[:height] = grey
    inside = tall[:, :height] > 0.5 * _OUTSIDE
    other_mean = blur(tall)
    complete = inside & (other_mean >= -0.5)  # no pixel of the window is outside
    np.maximum(tall, 0, out=tall)
    other_mean = blur(tall)
    result = blur(tall * padded) - mean * other_mean
    other_variance = np.maximum(blur(tall * tall) - other_mean * other_mean, 0)
    result /= np.sqrt(variance * other_variance) + noise**2
    result *= complete
    return result


def _best_plane(likeness, apart, settings):
    """The most plausible plane of every pixel, to a fraction, and how certain it is, (H, W) each.

    apart: planes that are farther away than this one's are rivals.
    """
    total = semi_global(1 - likeness, settings.small_step, settings.large_step)
    best = np.clip(total.argmin(axis=0), 1, len(likeness) - 2)

    def at(plane):
        return np.take_along_axis(likeness, plane[None], axis=0)[0]

    below, here, above = at(best - 1), at(best), at(best + 1)
    curvature = np.minimum(below - 2 * here + above, -1e-6)
    refined = best + np.clip(0.5 * (below - above) / curvature, -0.5, 0.5)
    # A surface is certain when it looks alike, and no other plane does.
    away = np.abs(np.arange(len(likeness))[:, None, None] - best) > apart
    rival = np.where(away, likeness, -1).max(axis=0)
    confidence = np.clip((here - 0.3) / 0.5, 0, 1) * np.clip((here - rival) / 0.1, 0, 1)
    return refined, confidence.astype(np.float32)


def refine(
    surfaces: Sequence[InverseDepth],
    images: Sequence[np.ndarray],
    centre: np.ndarray,
    settings: SweepSettings | None = None,
    *,
    measured: Sequence[np.ndarray | None] | None = None,
) -> list[InverseDepth]:
    """Measure again around known surfaces, at twice their size: finer texture, smaller steps.

    surfaces, images: one per view. Every pixel tries a few depths on both sides of its own.
    measured: as in `sweep`; what a sensor knows is not measured again.
    """
    import cv2

    settings = settings or SweepSettings()
    cameras = [surface.camera for surface in surfaces]
    fine = [
        _small(camera.scaled(image.shape[1], image.shape[0]), image, 2 * settings.longer_side)
        for camera, image in zip(cameras, images, strict=True)
    ]
    measured = [None] * len(cameras) if measured is None else measured
    offsets = np.arange(-_REFINED_PLANES, _REFINED_PLANES + 1) * _REFINED_STEP

    def one(view):
        surface, (camera, grey), depth = surfaces[view], fine[view], measured[view]
        if depth is not None and _knows_most(depth):
            return believed(replace(surface, confidence=np.zeros_like(surface.inverse)), depth)
        size = camera.width, camera.height
        start = cv2.resize(surface.inverse, size, interpolation=cv2.INTER_CUBIC)
        inverse = np.maximum(start + offsets[:, None, None] * surface.step, 1e-3 * surface.step)
        chosen = choose_neighbours(cameras, view, centre, settings.neighbours)
        if not chosen:  # its neighbours have none themselves, and are not here
            nothing = np.zeros(start.shape, np.float32)
            return InverseDepth(camera, np.float32(start), nothing, _REFINED_STEP * surface.step)
        likeness = np.stack([_likeness_around(camera, grey, *fine[i], inverse) for i in chosen])
        found, confidence = _best_plane(_better_half(likeness), 2, settings)
        step = _REFINED_STEP * surface.step
        moved = start + (found - _REFINED_PLANES) * step
        refined = InverseDepth(camera, np.float32(moved), confidence, step)
        return refined if depth is None else believed(refined, depth)

    return in_threads(one, range(len(surfaces)))


def _likeness_around(camera, grey, other, other_grey, inverse):
    """Normalised cross-correlation (D, H, W) through inverse depths (D, H, W) of every pixel."""
    import cv2

    height, width = grey.shape
    R = other.R @ camera.R.T
    t = np.float32(other.K @ (other.t - R @ camera.t))
    far = np.float32(camera.pixel_rays() @ (other.K @ R).T)
    tall = np.full((len(inverse), height + _GAP, width), _OUTSIDE, dtype=np.float32)
    for plane, w in enumerate(np.float32(inverse)):
        z = far[..., 2] + t[2] * w
        z = np.where(z > 1e-6, z, np.float32(1e-9))  # behind the neighbour: far outside its image
        tall[plane, :height] = cv2.remap(
            other_grey,
            np.float32((far[..., 0] + t[0] * w) / z - np.float32(0.5)),
            np.float32((far[..., 1] + t[1] * w) / z - np.float32(0.5)),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=_OUTSIDE,
        )
    return _correlation(grey, tall, _REFINED_WINDOW, _REFINED_NOISE)


def semi_global(cost: np.ndarray, small_step: float, large_step: float) -> np.ndarray:
    """Sum over four paths of semi-global matching: cost (D, H, W) -> (D, H, W).

    Source: Hirschmueller 2008, equation 13; along rows and columns, both ways.
    """
    total = np.zeros_like(cost)
    for axis in (1, 2):
        for backwards in (False, True):
            lines = np.moveaxis(cost, axis, 0)
            into = np.moveaxis(total, axis, 0)
            if backwards:
                lines, into = lines[::-1], into[::-1]
            previous = np.zeros_like(lines[0])
            for line, output in zip(lines, into, strict=True):
                least = previous.min(axis=0)
                path = np.minimum(previous, least + large_step)
                np.minimum(path[1:], previous[:-1] + small_step, out=path[1:])
                np.minimum(path[:-1], previous[1:] + small_step, out=path[:-1])
                previous = line + path - least
                output += previous
    return total
