"""Views' surfaces fused to points: dense where a camera is near or a picture has texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..machine import in_threads
from .plane_sweep import InverseDepth
from .points import mean_by_group
from .view_surfaces import GUESS, back_projected, seen
from .voxels import MAX_CELLS, pack

#: How wide what counts as detail is, in pixels (sigma of the blur), and how often the spacing is
#: halved at most.
_DETAIL_PX = 2.0
_MOST_HALVINGS = 2


@dataclass(frozen=True)
class FusionSettings:
    """How dense points are.

    pixels_per_point: the spacing of the points, in pixels of the median camera at the background.
    detail: grey levels of 255 by which a plate differs from itself blurred, where points are twice
        as dense.
    steepest: steps of the sweep from one pixel of a map to the next that no surface has, but the
        sheet that a completion hangs between a thing and what is behind it.
    confirms, looks_through: how near to another view's surface a place is confirmed by it, and how
        far before it the place is contradicted, in steps.
    oversampling: size of the maps that are fused, in sizes of the swept ones.
    max_points: the spacing grows until there are at most so many.
    """

    pixels_per_point: float = 4.0
    detail: float = 4.0
    steepest: float = 3.0
    confirms: float = 2.0
    looks_through: float = 3.0
    oversampling: int = 3
    max_points: int = 262_144


def fused(
    surfaces: Sequence[InverseDepth],
    plates: Sequence[np.ndarray],
    hidden: Sequence[np.ndarray],
    near: float,
    settings: FusionSettings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Points of all views: positions and colours (N, 3), scale (N,), and the spacing at scale 1.

    plates: (H, W, 3) uint8 RGB, whose colours the points get. hidden: bool at the surfaces' size,
    true where a plate was filled in. near: depths nearer than this are not projected.
    """

    def one(index):
        samples = _samples(surfaces[index], plates[index], hidden[index], settings)
        kept = ~_doubtful(index, surfaces, hidden[index], samples[0], near, settings)
        return [part[kept] for part in samples]

    samples = in_threads(one, range(len(surfaces)))
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
        back_projected(camera.scaled(*size), inverse),
        color,
        # Near views see a place best: weights go with the area that it has in the image.
        (sure.ravel() + GUESS) * inverse.ravel() ** 2,
        1 / (inverse.ravel() * focal),
        detail.ravel(),
    )


def _doubtful(index, surfaces, gone, position, near, settings):
    """Which samples (N, 3) of a surface lie between things, or where other views see through.

    Each view's surface is smooth, even where it leaves the edge of something near: what it takes
    for a slope there hides the floor, in the others' pictures.
    """
    import cv2

    surface = surfaces[index]
    height, width = surface.inverse.shape
    size = width * settings.oversampling, height * settings.oversampling
    slope = [cv2.Sobel(surface.inverse, cv2.CV_32F, *d, scale=1 / 8) for d in ((1, 0), (0, 1))]
    steep = np.abs(slope).max(axis=0) > settings.steepest * surface.step
    steep = cv2.resize(np.uint8(steep), size, interpolation=cv2.INTER_NEAREST).ravel() > 0
    sure = np.minimum(surface.confidence, 1) * (1 - gone.astype(np.float32))
    support = cv2.resize(np.float32(sure), size).ravel().astype(np.float64)
    against = np.zeros(len(position))
    for other_index, other in enumerate(surfaces):
        if other_index == index:
            continue
        which, pixel, inverse = seen(position, other.camera, near)
        error = (inverse - other.inverse.ravel()[pixel]) / other.step
        sure = np.minimum(other.confidence.ravel()[pixel], 1)
        support[which] += (np.abs(error) < settings.confirms) * sure
        against[which] += (error > settings.looks_through) * sure
    return steep | ((against > 1) & (against > support))


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
