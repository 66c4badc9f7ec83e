"""The surfaces that views see: what several agree on, continued between, and pulled together.

A view's surface is an `InverseDepth`. Errors are counted in steps of the sweep that measured it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..machine import in_threads
from ..render.camera import Camera
from .depth_completion import complete
from .plane_sweep import InverseDepth
from .shell import Shell
from .zbuffer import project_finite

#: Weight of a place that only the completion knows.
GUESS = 0.05
#: Views that say as much as the sensor that has measured a place.
_SENSED = 3.0
#: Weight of the shell where nothing is known: it decides over a gap of about 25 pixels or more.
_PRIOR = 0.005
#: Surfaces behind each other in one pixel that are looked at, front to back, and how often the
#: middle of each is moved to the mean of what is near it.
_LAYERS, _MEAN_SHIFTS = 4, 3


@dataclass(frozen=True)
class ConsensusSettings:
    """When views agree. Errors of inverse depth are in steps of the sweep's planes.

    agree, conflict: how near two views' inverse depths must be to confirm each other, and how much
        nearer than another view's surface a place is that this view looks through.
    min_agreement: summed confidence of the other views that confirm a place.
    front_weight: summed weight of places that make a surface, and hide what is behind it.
    rounds: how often the views' surfaces are pulled together after each completion.
    """

    agree: float = 1.5
    conflict: float = 3.0
    min_agreement: float = 0.7
    front_weight: float = 0.7
    rounds: int = 2


def without_hidden(
    surfaces: Sequence[InverseDepth], hidden: Sequence[np.ndarray]
) -> list[InverseDepth]:
    """Surfaces that are not sure of anything where their plates were filled in (H, W) bool."""
    return [
        replace(surface, confidence=np.where(resized(gone, surface) > 0.5, 0, surface.confidence))
        for surface, gone in zip(surfaces, hidden, strict=True)
    ]


def resized(image: np.ndarray, surface: InverseDepth) -> np.ndarray:
    """An image at the size of a view's map, float32."""
    import cv2

    size = surface.camera.width, surface.camera.height
    return cv2.resize(np.asarray(image, dtype=np.float32), size, interpolation=cv2.INTER_AREA)


def back_projected(camera: Camera, inverse: np.ndarray) -> np.ndarray:
    """World positions (H W, 3) float32 of a map of inverse depths."""
    p = (camera.pixel_rays() / inverse[..., None]).reshape(-1, 3)
    return ((p - camera.t) @ camera.R).astype(np.float32)


def seen(
    position: np.ndarray, camera: Camera, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the points (N, 3) in a camera's image, their pixels (flat) and inverse depths."""
    u, v, z, valid = project_finite(position, replace(camera, near=near))
    which = np.flatnonzero(valid)
    pixel = v[which].astype(np.int64) * camera.width + u[which].astype(np.int64)
    return which, pixel, 1 / z[which]


def agreed(
    surfaces: Sequence[InverseDepth], near: float, settings: ConsensusSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Places that several views, or a sensor, have measured: positions (N, 3) and weights (N,).

    near: depths nearer than this are not projected, world units.
    """
    positions, weights = [], []
    for index, surface in enumerate(surfaces):
        certain = np.flatnonzero(surface.confidence.ravel() > 0.15)
        certain = certain[surface.inverse.ravel()[certain] > 0]
        with np.errstate(divide="ignore"):
            places = back_projected(surface.camera, surface.inverse)[certain]
        agreement, conflict = np.zeros(len(places)), np.zeros(len(places))
        for other_index, other in enumerate(surfaces):
            if other_index == index:
                continue
            which, pixel, inverse = seen(places, other.camera, near)
            error = (inverse - other.inverse.ravel()[pixel]) / other.step
            sure = other.confidence.ravel()[pixel]
            agreement[which] += (np.abs(error) < settings.agree) * sure
            conflict[which] += (error > settings.conflict) * sure
        if surface.sensed is not None:
            agreement += _SENSED * surface.sensed.ravel()[certain]
        kept = (agreement >= settings.min_agreement) & (conflict < 0.5 * agreement)
        own = surface.confidence.ravel()[certain]
        positions.append(places[kept])
        weights.append((own * np.clip(agreement - conflict, 0, 4) / 4)[kept])
    return np.concatenate(positions), np.concatenate(weights)


def completed(
    surfaces: Sequence[InverseDepth],
    guides: Sequence[np.ndarray],
    position: np.ndarray,
    weight: np.ndarray,
    shell: Shell,
    near: float,
    settings: ConsensusSettings,
) -> list[InverseDepth]:
    """Every view's surface through the places that were agreed on, continued between them, and all
    pulled together.

    guides: (H, W) grey levels per view, whose edges may be those of surfaces. position, weight: of
    `agreed`. shell: decides where nothing is known.
    """

    def one(surface, guide):
        shape = surface.inverse.shape
        which, pixel, inverse = seen(position, surface.camera, near)
        mean, total = _nearest_surface(
            pixel, inverse, weight[which], shape[0] * shape[1], surface.step, settings
        )
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

    surfaces = in_threads(one, surfaces, guides)
    for _ in range(settings.rounds):
        surfaces = _pulled_together(surfaces, guides, near)
    return surfaces


def _nearest_surface(pixel, inverse, weight, count, step, settings):
    """Inverse depth and weight of the surface in each of `count` pixels, (count,) each.

    pixel, inverse, weight: (N,) of places that any view has measured. Other views see behind what
    is near, so several surfaces may fall into one pixel: the first that has enough weight hides the
    others, though they may have more. Where none has, it is the robust mean of all.
    """
    reach = settings.agree * step
    front = np.full(count, np.nan)
    waiting = np.ones(len(pixel), dtype=bool)
    for _ in range(_LAYERS):
        middle = np.zeros(count)
        np.maximum.at(middle, pixel[waiting], inverse[waiting])
        for _ in range(_MEAN_SHIFTS):
            inside = waiting & (np.abs(inverse - middle[pixel]) < reach)
            total = np.bincount(pixel[inside], weight[inside], count)
            summed = np.bincount(pixel[inside], (weight * inverse)[inside], count)
            middle = np.where(total > 0, summed / np.maximum(total, 1e-9), middle)
        heavy = np.isnan(front) & (total >= settings.front_weight)
        front[heavy] = middle[heavy]
        waiting &= np.isnan(front)[pixel] & (inverse < middle[pixel] - reach)
    distance = np.where(np.isnan(front)[pixel], 0, (inverse - front[pixel]) / reach)
    certain = weight / (1 + distance**2) ** 2
    pull = certain
    for _ in range(5):
        total = np.bincount(pixel, pull, count)
        mean = np.bincount(pixel, pull * inverse, count) / np.maximum(total, 1e-9)
        pull = certain / (1 + ((inverse - mean[pixel]) / reach) ** 2)
    return mean, total


def _positive(inverse):
    """Inverse depths that are nowhere behind the camera or at infinity: at most 100 medians far."""
    middle = float(np.median(inverse))
    return np.maximum(inverse, 0.01 * max(middle, 1e-9)).astype(np.float32)


def _pulled_together(surfaces, guides, near):
    """Every view's surface, moved towards what the other views take for the same surface.

    Where nobody knows, surfaces continued from different sides would lie behind each other as
    several thin walls.
    """
    clouds = [back_projected(surface.camera, surface.inverse) for surface in surfaces]

    def one(index):
        surface = surfaces[index]
        shape = surface.inverse.shape
        total = surface.confidence.ravel().astype(np.float64) + GUESS
        pulled = surface.inverse.ravel() * total
        for other, cloud in enumerate(clouds):
            if other == index:
                continue
            which, pixel, inverse = seen(cloud, surface.camera, near)
            error = (inverse - surface.inverse.ravel()[pixel]) / (3 * surface.step)
            weight = (surfaces[other].confidence.ravel()[which] + GUESS) * np.exp(-(error**2))
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

    return in_threads(one, range(len(surfaces)))
