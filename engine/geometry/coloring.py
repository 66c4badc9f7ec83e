"""Colour points by projecting them into the images of their frame, with an occlusion test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ReconstructionError
from ..machine import in_threads
from ..render.camera import Camera
from .filters import nearest_neighbours
from .points import Points
from .zbuffer import depth_buffer, project_finite

#: Points whose samples from all cameras are held at once.
_CHUNK = 1 << 12
#: The radius, in pixels of the reduced depth buffer, that the median point's disk should have:
#: small buffers are quick, and a disk of three pixels still leaves no holes between neighbours.
_BUFFER_RADIUS = 1.5
#: Steps towards the geometric median; the colour moves by less than 1/255 after them.
_MEDIAN_STEPS = 5
#: Cameras that see a surface flatter than this cosine (78 degrees), or from behind, are not asked.
_MIN_FRONTAL = 0.2
#: Points around an unseen one that it can take its colour from.
_FILL_NEIGHBOURS = 8
#: Points beyond a gap that get a colour at once when nothing next to them has one.
_FILL_SEEDS = 64
#: What a point without a side counts as: the mean cosine of a sphere that all cameras see.
_NO_SIDE = 0.5
#: Distance of two colours below which they count as the same, keeps the median's weights finite.
_SAME_COLOR = 4 / 255


@dataclass(frozen=True)
class ColorSettings:
    """How colours are gathered. Lengths are multiples of the points' spacing.

    radius: of the disks that hide what is behind them.
    tolerance: a point is visible down to this depth behind the disks in front of it; it covers the
        unevenness of the points themselves on slanted surfaces.
    mask_margin: samples nearer than this fraction of the image's longer side to the outside of the
        mask are avoided, because background leaks into them (1 px of 640).
    """

    radius: float = 0.8
    tolerance: float = 2.5
    mask_margin: float = 1 / 640

    def __post_init__(self) -> None:
        if not (self.radius > 0 and self.tolerance > 0 and self.mask_margin >= 0):
            raise ReconstructionError(f"the settings of the colours are out of range: {self}")


def project_colors(
    points: Points,
    cameras: Sequence[Camera],
    images: Sequence[np.ndarray | None],
    masks: Sequence[np.ndarray | None] | None = None,
    settings: ColorSettings | None = None,
) -> np.ndarray:
    """Colour of every point, (N, 3) float32 RGB in [0, 1], as the cameras that see it agree on.

    images: V arrays (H, W, 3) uint8 RGB, or None where a camera has none. masks: V arrays (H, W),
    true on the subject, or None: samples outside the mask are not used, because there the point
    sticks out of the subject and the camera shows what is behind it.
    A point takes the geometric median of its samples, weighted by how frontal the camera sees its
    surface where normals are known. Points that no camera sees take the colours around them, so
    they are never black and never NaN. Raises ReconstructionError where no
    camera sees any point.
    """
    settings = settings or ColorSettings()
    if len(images) != len(cameras) or (masks is not None and len(masks) != len(cameras)):
        raise ReconstructionError(
            f"{len(cameras)} cameras were given with {len(images)} images"
            + ("" if masks is None else f" and {len(masks)} masks")
        )
    if not len(points):
        return np.zeros((0, 3), dtype=np.float32)
    for index, (camera, image) in enumerate(zip(cameras, images, strict=True)):
        if image is None:
            continue
        mask = None if masks is None else masks[index]
        for name, array in (("image", image), ("mask", mask)):
            if array is not None and np.shape(array)[:2] != (camera.height, camera.width):
                raise ReconstructionError(
                    f"the {name} is {np.shape(array)[1::-1]} pixels, "
                    f"the camera {camera.width, camera.height}",
                    where=f"camera {index}",
                )

    def source(index: int) -> tuple:
        camera, mask = cameras[index], None if masks is None else masks[index]
        margin = settings.mask_margin * max(camera.width, camera.height)
        trusted = None if mask is None else _shrunk(np.asarray(mask) != 0, margin)
        return camera, np.asarray(images[index]), trusted, *_occluders(points, camera, settings)

    shown = [index for index, image in enumerate(images) if image is not None]
    sources = in_threads(source, shown)

    color = np.zeros((len(points), 3), dtype=np.float32)
    seen = np.zeros(len(points), dtype=bool)

    def colour(begin: int) -> None:
        part = np.arange(begin, min(begin + _CHUNK, len(points)))
        samples = np.zeros((len(sources), len(part), 3), dtype=np.float32)
        weights = np.zeros((len(sources), len(part)), dtype=np.float32)
        chunk = points.select(part)
        for source, sample, weight in zip(sources, samples, weights, strict=True):
            _sample(chunk, *source, settings, sample, weight)
        color[part] = geometric_median(samples, weights)
        seen[part] = weights.sum(axis=0) > 0

    in_threads(colour, range(0, len(points), _CHUNK))
    if not seen.any():
        raise ReconstructionError(
            "no camera with an image sees any point",
            hint="Check that images, masks and calibration belong together (`peel4d info`)",
        )
    _fill(points.position, color, seen)
    return color


def _fill(position, color, seen):
    """Spread the colours of the seen points over the others, in place.

    Every round colours the unseen points that have coloured ones among their neighbours, with the
    mean of those. Where it stops at a gap, some of the points beyond take the colour of the nearest
    coloured point, and it goes on from them.
    """
    unseen = np.flatnonzero(~seen)
    _, neighbour = nearest_neighbours(position, position[unseen], _FILL_NEIGHBOURS + 1)
    known = seen.copy()
    while len(unseen):
        weight = known[neighbour].astype(np.float32)
        total = weight.sum(axis=1)
        ready = total > 0
        if not ready.any():
            some = unseen[:: -(-len(unseen) // _FILL_SEEDS)]
            _, nearest = nearest_neighbours(position[known], position[some], 1)
            color[some] = color[np.flatnonzero(known)[nearest[:, 0]]]
            known[some] = True
            rest = ~known[unseen]
            unseen, neighbour = unseen[rest], neighbour[rest]
            continue
        mixed = (color[neighbour[ready]] * weight[ready, :, None]).sum(axis=1)
        color[unseen[ready]] = mixed / total[ready, None]
        known[unseen[ready]] = True
        unseen, neighbour = unseen[~ready], neighbour[~ready]


def geometric_median(samples: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The colours (N, 3) with the least weighted distance to the samples (V, N, 3).

    weights: (V, N) >= 0; a point without any weight gets 0. Weiszfeld's iteration, a few steps from
    the weighted mean: a minority of wrong samples (an occluder that was missed, a highlight) moves
    the result little.
    """
    total = weights.sum(axis=0)
    safe = np.where(total > 0, total, 1)
    result = (samples * weights[..., None]).sum(axis=0) / safe[:, None]
    for _ in range(_MEDIAN_STEPS):
        distance = np.sqrt(((samples - result) ** 2).sum(axis=2))
        pull = weights / np.maximum(distance, _SAME_COLOR)
        total = pull.sum(axis=0)
        safe = np.where(total > 0, total, 1)
        result = (samples * pull[..., None]).sum(axis=0) / safe[:, None]
    return result


def _occluders(points, camera, settings):
    """A depth buffer (H', W') of the points, reduced to the resolution that they need."""
    _, _, z, valid = project_finite(points.position, camera)
    focal = np.sqrt(camera.K[0, 0] * camera.K[1, 1])
    depth = 1.0 if camera.orthographic else np.median(z[valid]) if valid.any() else np.inf
    radius = settings.radius * points.spacing
    factor = min(1.0, _BUFFER_RADIUS * depth / (focal * radius))
    reduced = camera.scaled(
        max(1, round(camera.width * factor)), max(1, round(camera.height * factor))
    )
    return reduced, depth_buffer(points.position, radius, reduced)


def _shrunk(mask, margin):
    """The mask without the pixels within `margin` of its rim; all of it where nothing remains.

    The image border is no rim: a subject that is cut by it goes on behind it.
    """
    import cv2

    if margin <= 0 or mask.all():
        return mask
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inner = distance > margin
    return inner if inner.any() else mask


def _sample(points, camera, image, trusted, buffer_camera, buffer, settings, sample, weight):
    """Write one camera's colours (N, 3) and weights (N,) of the points that it sees."""
    u, v, z, valid = project_finite(points.position, camera)
    which = np.flatnonzero(valid)
    u, v, z = u[which], v[which], z[which]
    column = np.minimum((u * (buffer_camera.width / camera.width)).astype(int), buffer.shape[1] - 1)
    row = np.minimum((v * (buffer_camera.height / camera.height)).astype(int), buffer.shape[0] - 1)
    visible = z <= buffer[row, column] + settings.tolerance * points.spacing
    if trusted is not None:
        visible &= trusted[v.astype(int), u.astype(int)]
    which, u, v = which[visible], u[visible], v[visible]
    sample[which] = _bilinear(image, u, v)
    if points.normal is None:
        weight[which] = 1
        return
    if camera.orthographic:
        towards = np.broadcast_to(-camera.forward, (len(which), 3))
    else:
        towards = camera.centre - points.position[which]
        towards = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    normal = points.normal[which]
    frontal = np.where(normal.any(axis=1), (towards * normal).sum(axis=1), _NO_SIDE)
    # A point's back passes the depth test where the surface in front of it is within tolerance.
    weight[which] = np.where(frontal > _MIN_FRONTAL, frontal, 0)


def _bilinear(image, u, v):
    """Colours (N, 3) float32 in [0, 1] at continuous pixels (N,) inside the image."""
    height, width = image.shape[:2]
    x, y = np.clip(u - 0.5, 0, width - 1), np.clip(v - 0.5, 0, height - 1)
    x0, y0 = x.astype(int), y.astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    bottom = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return ((top * (1 - fy) + bottom * fy) / 255).astype(np.float32)
