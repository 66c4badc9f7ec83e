"""The points of a static background, from one picture without the subject per camera.

Every view gets an inverse depth map (`plane_sweep`). What several views agree on is certain and
shared among all of them; between such places a surface is continued (`depth_completion`), then the
views' surfaces are pulled together and fused. Directions that no view has looked into are closed
by a shell, because a hole is black and a wrong wall is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import ReconstructionError
from ..render.camera import Camera
from .depth_completion import complete
from .plane_sweep import InverseDepth, SweepSettings, per_view, refine, scene_centre, sweep
from .points import Points, mean_by_group
from .rig import in_frustum
from .shell import continued, fit_shell, gaps
from .voxels import MAX_CELLS, pack
from .zbuffer import project_finite

#: Depths nearer than this are not projected, in distances to the scene's centre.
_NEAR = 0.01
#: Weight of a place that only the completion knows.
_GUESS = 0.05
#: A background of which the views agree about less than this share is plain: there is nothing to
#: see in it, and what does agree does so by chance.
_FEWEST_AGREED = 0.01
#: How wide what counts as detail is, in pixels (sigma of the blur), and how often the spacing is
#: halved at most.
_DETAIL_PX = 2.0
_MOST_HALVINGS = 2
#: Weight of the shell where nothing is known: it decides over a gap of about 25 pixels or more.
_PRIOR = 0.005


@dataclass(frozen=True)
class BackgroundSettings:
    """How a background is found. Errors of depth are counted in steps of the sweep's planes.

    agree, conflict: how near two views' inverse depths must be to confirm each other, and how much
        nearer than another view's surface a place is that this view looks through.
    min_agreement: summed confidence of the other views that confirm a place.
    consensus_rounds: how often the views' surfaces are pulled together after each completion.
    pixels_per_point: the spacing of the points, in pixels of the median camera at the background.
    detail: grey levels of 255 by which a plate differs from itself blurred, where points are twice
        as dense.
    oversampling: size of the maps that are fused, in sizes of the swept ones.
    lens_space: no point is nearer to the front of a camera than this, in distances to the centre:
        walls in which cameras are mounted would cover them.
    free_space: points nearer than this share of the depth that any view has there are wrong.
    max_points: the spacing grows until there are at most so many.
    shell_margin: how far beyond what cameras see the shell goes, degrees.
    """

    sweep: SweepSettings = field(default_factory=SweepSettings)
    agree: float = 1.5
    conflict: float = 3.0
    min_agreement: float = 0.7
    consensus_rounds: int = 2
    pixels_per_point: float = 4.0
    detail: float = 4.0
    oversampling: int = 3
    lens_space: float = 0.25
    free_space: float = 0.8
    max_points: int = 262_144
    shell_margin: float = 10.0


@dataclass(frozen=True, eq=False)
class Background:
    """points: of the background. color: (N, 3) float32 RGB in [0, 1].

    scale: (N,) float32, distance to the neighbours in spacings: 1, and less near cameras and where
    there is texture. guessed: (N,) bool, points that no view has seen, only closed. surfaces: of
    the views that were compared. lenses: of all cameras of the rig. centre: (3,) where they look.
    """

    points: Points
    color: np.ndarray
    scale: np.ndarray
    guessed: np.ndarray
    surfaces: tuple[InverseDepth, ...]
    lenses: tuple[Camera, ...]
    centre: np.ndarray

    def misplaced(
        self, position: np.ndarray, reach: np.ndarray | float, settings: BackgroundSettings
    ) -> np.ndarray:
        """Which places (N, 3) are where nothing can be, (N,) bool.

        That is before a lens, and far in front of what a view sees, where the subject moves.
        reach: (N,) how far a point there extends, world units.
        """
        wrong = _in_free_space(position, self.surfaces, settings.free_space)
        return wrong | _before_a_lens(
            position, self.lenses, self.centre, reach, settings.lens_space
        )


def static_background(
    cameras: Sequence[Camera],
    plates: Sequence[np.ndarray],
    known: Sequence[np.ndarray],
    *,
    bounds: np.ndarray | None = None,
    lenses: Sequence[Camera] = (),
    settings: BackgroundSettings | None = None,
) -> Background:
    """Points of what does not move, coloured.

    cameras: V perspective cameras. plates: V arrays (H, W, 3) uint8 RGB without the subject.
    known: V bool arrays (H, W), false where a plate was filled in. bounds: (2, 3) of the subject,
    says where the cameras look; otherwise it follows from them. lenses: further cameras of the rig
    whose view must not be covered by what they are mounted in; only their calibration is used.
    Raises ReconstructionError where fewer than two views can be compared or nothing agrees.
    """
    settings = settings or BackgroundSettings()
    centre = scene_centre(cameras, bounds)
    maps = sweep(cameras, plates, centre, settings.sweep)
    views = [view for view, found in enumerate(maps) if found is not None]
    if len(views) < 2:
        raise ReconstructionError(
            "no two views show the same background",
            hint="A background needs overlapping static cameras with clean plates",
        )
    hidden = [_resized(known[view], maps[view]) < 0.5 for view in views]
    surfaces = _without_hidden([maps[view] for view in views], hidden)
    guides = [_guide(plates[view], maps[view]) for view in views]
    near = _NEAR * float(np.median([np.linalg.norm(c.centre - centre) for c in cameras]))
    position, weight = _agreed(surfaces, near, settings)
    if len(position) < _FEWEST_AGREED * sum(surface.inverse.size for surface in surfaces):
        raise ReconstructionError(
            "the views do not agree about enough places of the background",
            hint="Check the calibration (`peel4d info`); plain or moving backgrounds have no depth",
        )
    everyone = [cameras[view] for view in views]
    shell = fit_shell(position, weight, np.mean([c.centre for c in everyone], axis=0))
    surfaces = _completed(surfaces, guides, position, weight, shell, near, settings)
    # Once more, finer, around what has been found. The surfaces keep their size: what they gain is
    # precision, and a completion of four times the pixels costs more than it brings.
    seen = [plates[view] for view in views]
    finer = _without_hidden(refine(surfaces, seen, centre, settings.sweep), hidden)
    position, weight = _agreed(finer, near, settings)
    if len(position):
        shell = fit_shell(position, weight, shell.middle)
        surfaces = [replace(s, step=f.step) for s, f in zip(surfaces, finer, strict=True)]
        surfaces = _completed(surfaces, guides, position, weight, shell, near, settings)
    position, color, scale, spacing = _fused(surfaces, seen, hidden, settings)
    found = Background(
        Points(position, spacing),
        color,
        scale,
        np.zeros(len(position), dtype=bool),
        tuple(surfaces),
        (*cameras, *lenses),
        centre,
    )
    kept = ~found.misplaced(position, 4 * spacing, settings)
    if not kept.any():
        raise ReconstructionError("nothing of the background is where cameras could see it")
    position, color, scale = position[kept], color[kept], scale[kept]
    closing, direction = gaps(shell, position, everyone, spacing, settings.shell_margin)
    kept = ~found.misplaced(closing, 4 * spacing, settings)
    closing, direction = closing[kept], direction[kept]
    closing_color = np.clip(continued(shell, position, color, direction), 0, 1)
    guessed = np.arange(len(position) + len(closing)) >= len(position)
    position = np.concatenate([position, closing]).astype(np.float32)
    color = np.concatenate([color, closing_color]).astype(np.float32)
    return replace(
        found,
        points=Points(position, spacing),
        color=color,
        scale=np.concatenate([scale, np.ones(len(closing))]).astype(np.float32),
        guessed=guessed,
    )


def _without_hidden(surfaces, hidden):
    """Surfaces that are not sure of anything where their plates were filled in (H, W) bool."""
    return [
        replace(surface, confidence=np.where(_resized(gone, surface) > 0.5, 0, surface.confidence))
        for surface, gone in zip(surfaces, hidden, strict=True)
    ]


def _guide(plate, surface):
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(plate), cv2.COLOR_RGB2GRAY)
    return _resized(grey, surface)


def _resized(image, surface):
    """An image at the size of a view's map, float32."""
    import cv2

    size = surface.camera.width, surface.camera.height
    return cv2.resize(np.asarray(image, dtype=np.float32), size, interpolation=cv2.INTER_AREA)


def _back_projected(camera, inverse):
    """World positions (H W, 3) float32 of a map of inverse depths."""
    p = (camera.pixel_rays() / inverse[..., None]).reshape(-1, 3)
    return ((p - camera.t) @ camera.R).astype(np.float32)


def _seen(position, camera, near):
    """Indices of the points in a camera's image, their pixels (flat) and inverse depths."""
    u, v, z, valid = project_finite(position, replace(camera, near=near))
    which = np.flatnonzero(valid)
    pixel = v[which].astype(np.int64) * camera.width + u[which].astype(np.int64)
    return which, pixel, 1 / z[which]


def _agreed(surfaces, near, settings):
    """Places that several views have measured: positions (N, 3) and weights (N,)."""
    positions, weights = [], []
    for index, surface in enumerate(surfaces):
        certain = np.flatnonzero(surface.confidence.ravel() > 0.15)
        certain = certain[surface.inverse.ravel()[certain] > 0]
        with np.errstate(divide="ignore"):
            places = _back_projected(surface.camera, surface.inverse)[certain]
        agreement, conflict = np.zeros(len(places)), np.zeros(len(places))
        for other_index, other in enumerate(surfaces):
            if other_index == index:
                continue
            which, pixel, inverse = _seen(places, other.camera, near)
            error = (inverse - other.inverse.ravel()[pixel]) / other.step
            sure = other.confidence.ravel()[pixel]
            agreement[which] += (np.abs(error) < settings.agree) * sure
            conflict[which] += (error > settings.conflict) * sure
        kept = (agreement >= settings.min_agreement) & (conflict < 0.5 * agreement)
        own = surface.confidence.ravel()[certain]
        positions.append(places[kept])
        weights.append((own * np.clip(agreement - conflict, 0, 4) / 4)[kept])
    return np.concatenate(positions), np.concatenate(weights)


def _completed(surfaces, guides, position, weight, shell, near, settings):
    """Every view's surface through the places that were agreed on, continued between them, and all
    pulled together."""

    def one(surface, guide):
        shape = surface.inverse.shape
        count = shape[0] * shape[1]
        which, pixel, inverse = _seen(position, surface.camera, near)
        certain = weight[which]
        mean = np.zeros(count)
        pull = certain
        for _ in range(5):  # a robust mean: several surfaces may fall into one pixel
            total = np.bincount(pixel, pull, count)
            mean = np.bincount(pixel, pull * inverse, count) / np.maximum(total, 1e-9)
            pull = certain / (1 + ((inverse - mean[pixel]) / (1.5 * surface.step)) ** 2)
        data, sure = mean.reshape(shape), np.minimum(total, 2).reshape(shape)
        probable = shell.inverse_depth(surface.camera)

        def through(trusted, stiffness):
            both = trusted + _PRIOR
            wanted = (trusted * data + _PRIOR * probable) / both
            return complete(wanted, both, guide, stiffness=stiffness)

        whole = through(sure, 2.0)
        trusted = sure
        for _ in range(3):  # what does not fit the surface around it is wrong
            trusted = sure / (1 + ((data - whole) / (2 * surface.step)) ** 2) ** 2
            whole = through(trusted, 1.0)
        return replace(surface, inverse=_positive(whole), confidence=np.float32(trusted))

    surfaces = per_view(one, surfaces, guides)
    for _ in range(settings.consensus_rounds):
        surfaces = _pulled_together(surfaces, guides, near)
    return surfaces


def _positive(inverse):
    """Inverse depths that are nowhere behind the camera or at infinity: at most 100 medians far."""
    middle = float(np.median(inverse))
    return np.maximum(inverse, 0.01 * max(middle, 1e-9)).astype(np.float32)


def _pulled_together(surfaces, guides, near):
    """Every view's surface, moved towards what the other views take for the same surface.

    Where nobody knows, surfaces continued from different sides would lie behind each other as
    several thin walls.
    """
    clouds = [_back_projected(surface.camera, surface.inverse) for surface in surfaces]

    def one(index):
        surface = surfaces[index]
        shape = surface.inverse.shape
        total = surface.confidence.ravel().astype(np.float64) + _GUESS
        pulled = surface.inverse.ravel() * total
        for other, cloud in enumerate(clouds):
            if other == index:
                continue
            which, pixel, inverse = _seen(cloud, surface.camera, near)
            error = (inverse - surface.inverse.ravel()[pixel]) / (3 * surface.step)
            weight = (surfaces[other].confidence.ravel()[which] + _GUESS) * np.exp(-(error**2))
            weight *= np.abs(error) < 2.5
            pulled += np.bincount(pixel, weight * inverse, len(pulled))
            total += np.bincount(pixel, weight, len(pulled))
        whole = complete(
            (pulled / total).reshape(shape),
            np.minimum(total, 3).reshape(shape),
            guides[index],
            stiffness=0.5,
            iterations=20,
            folds=0,
        )
        return replace(surface, inverse=_positive(whole))

    return per_view(one, range(len(surfaces)))


def _fused(surfaces, plates, hidden, settings):
    """Points of all views: positions and colours (N, 3), scale (N,), and the spacing at scale 1."""
    samples = [
        _samples(surface, plate, gone, settings)
        for surface, plate, gone in zip(surfaces, plates, hidden, strict=True)
    ]
    position, color, weight, pixel, detail = (
        np.concatenate(part) for part in zip(*samples, strict=True)
    )
    spacing = float(np.median(pixel)) * settings.pixels_per_point
    # How many halvings of the spacing a place asks for: it is near a camera, or has texture.
    halvings = np.log2(spacing / (settings.pixels_per_point * pixel)) + detail
    while True:
        fused, mixed, scale = _voxel_means(position, color, weight, halvings, spacing)
        if len(fused) <= settings.max_points:
            return fused, mixed, scale, spacing
        grown = max(1.05, 1.02 * np.sqrt(len(fused) / settings.max_points))
        spacing *= grown
        halvings += np.log2(grown)


def _samples(surface, plate, gone, settings):
    """Places of a surface: position and colour (N, 3); weight, pixel and detail (N,).

    pixel: the size of one of the plate's pixels there, world units. detail: bool, has texture.
    """
    import cv2

    camera = surface.camera
    size = camera.width * settings.oversampling, camera.height * settings.oversampling
    inverse = cv2.resize(surface.inverse, size, interpolation=cv2.INTER_CUBIC)
    inverse = np.maximum(inverse, surface.inverse.min())
    sure = cv2.resize(surface.confidence, size) * (1 - cv2.resize(gone.astype(np.float32), size))
    color = cv2.resize(plate, size, interpolation=cv2.INTER_AREA).reshape(-1, 3) / 255.0
    grey = cv2.cvtColor(np.ascontiguousarray(plate), cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = cv2.blur(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), _DETAIL_PX)), (5, 5))
    detail = cv2.resize(detail, size, interpolation=cv2.INTER_AREA) > settings.detail
    focal = np.sqrt(camera.K[0, 0] * camera.K[1, 1]) * plate.shape[1] / camera.width
    return (
        _back_projected(camera.scaled(*size), inverse),
        color,
        # Near views see a place best: weights go with the area that it has in the image.
        (sure.ravel() + _GUESS) * inverse.ravel() ** 2,
        1 / (inverse.ravel() * focal),
        detail.ravel(),
    )


def _voxel_means(position, color, weight, halvings, spacing):
    """One point per voxel: position (M, 3), colour (M, 3), size of the voxel in spacings (M,).

    A voxel of the spacing is divided as often as the samples (N,) in it ask for on average.
    """
    cells = np.floor(position / spacing).astype(np.int64)
    origin = cells.min(axis=0)
    cells -= origin
    inside = (cells << _MOST_HALVINGS < MAX_CELLS).all(axis=1)
    position, color, weight = position[inside], color[inside], weight[inside]
    _, group = np.unique(pack(cells[inside]), return_inverse=True)
    mean = np.bincount(group, weight * halvings[inside]) / np.bincount(group, weight)
    level = np.clip(np.rint(mean), 0, _MOST_HALVINGS).astype(np.int64)[group]
    values = np.concatenate([position, color], axis=1) * weight[:, None]
    means, scales = [], []
    for halving in range(_MOST_HALVINGS + 1):
        which = level == halving
        fine = np.floor(position[which] * (2**halving / spacing)).astype(np.int64)
        _, group = np.unique(pack(fine - (origin << halving)), return_inverse=True)
        means.append(mean_by_group(values[which], group, np.bincount(group, weight[which])))
        scales.append(np.full(len(means[-1]), 0.5**halving))
    mean = np.concatenate(means)
    return mean[:, :3], mean[:, 3:], np.concatenate(scales)


def _in_free_space(position, surfaces, share):
    """Which points (N, 3) lie so far in front of a view's surface that it looks through them."""
    wrong = np.zeros(len(position), dtype=bool)
    for surface in surfaces:
        which, pixel, inverse = _seen(position, surface.camera, surface.camera.near)
        wrong[which] |= share * inverse > surface.inverse.ravel()[pixel]
    return wrong


def _before_a_lens(position, cameras, centre, reach, share):
    """Which points (N, 3) would cover a camera that is mounted among them.

    They are near and inside its frustum, widened by the reach of the disks that the points are.
    """
    wrong = np.zeros(len(position), dtype=bool)
    for camera in cameras:
        if camera.orthographic:
            continue
        z = camera.to_camera(position)[:, 2]
        near = (z > -reach) & (z < share * np.linalg.norm(camera.centre - centre))
        wrong |= near & in_frustum(camera, position, reach)
    return wrong
