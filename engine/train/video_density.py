"""Which Gaussians a group of pictures has: those that show little make room for new ones where the
error is, or go.

Source: adaptive density control of 3D Gaussian splatting (Kerbl et al. 2023), with a constant
number as in 3DGS-MCMC (Kheradmand et al. 2024). What it wins: docs/video-format.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..render.window import Window
from ..video2d.gaussians import Gaussians2D
from ..video2d.gop import Gop, frame_time, legendre

#: Standard deviation of a new Gaussian in distances between Gaussians, and pixels at least.
_NEW_SIZE, _NEW_THINNEST = 0.18, 0.5
#: Share of the residual that a new Gaussian's colour takes: others are born beside it.
_NEW_COLOR = 0.3
#: Blur of the squared error and of the residual, in pixels: single pixels are noise.
_ERROR_BLUR, _RESIDUAL_BLUR = 1.5, 1.0
#: Sides in standard deviations beyond which a Gaussian outside the picture does not reach it.
_REACH = 2.0


def energy(gop: Gop) -> np.ndarray:
    """(N,) what the squared error would grow by, about, without each Gaussian: the integral of its
    own square, |c|^2 pi l11 l22 in pixels, averaged over all frames; nothing where it is outside.

    The residual at the end of training is uncorrelated with every Gaussian, so that this is all.
    """
    area = math.pi * np.exp(gop.log_scale.sum(axis=1))
    total = np.zeros(len(gop))
    for frame in range(gop.frames):
        seen = gop.at(frame)
        l11, l21, l22 = seen.cholesky.T
        beyond = np.abs(seen.position - np.clip(seen.position, 0, [gop.width, gop.height]))
        inside = (beyond <= _REACH * np.stack([l11, np.hypot(l21, l22)], axis=1)).all(axis=1)
        total += np.square(seen.color).sum(axis=1) * area * inside
    return total / gop.frames


def strongest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest of (N,) values, ascending; the earlier of equal ones."""
    return np.sort(np.argsort(-values, kind="stable")[:count])


def weakest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` smallest of (N,) values, ascending; the earlier of equal ones."""
    return np.sort(np.argsort(values, kind="stable")[:count])


def newborn(
    gop: Gop,
    frame: int,
    target: np.ndarray,
    count: int,
    random: np.random.Generator,
    draw_linear: Callable[[Gaussians2D, Window], np.ndarray],
) -> dict[str, np.ndarray]:
    """`count` Gaussians for what a frame of the group lacks, as arrays of a `Gop`, by name; none
    where it lacks nothing.

    target: the frame (H, W, 3) uint8. Places are drawn by the squared error, systematically, so
    that every hole gets its share.
    """
    import cv2

    seen, window = gop.at(frame), Window(0, 0, gop.width, gop.height)
    residual = target.astype(np.float32) / 255 - np.clip(draw_linear(seen, window), 0, 1)
    error = cv2.GaussianBlur(np.square(residual).sum(axis=2), (0, 0), _ERROR_BLUR)
    cumulative = np.cumsum(error.ravel(), dtype=np.float64)
    if cumulative[-1] <= 0:
        count = 0
    marks = (np.arange(count) + random.uniform(0, 1, count)) * (cumulative[-1] / max(count, 1))
    pixels = np.searchsorted(cumulative, marks).clip(0, error.size - 1)
    y, x = np.divmod(pixels, gop.width)
    place = np.stack([x, y], axis=1) + random.uniform(0, 1, (count, 2))
    motion = _motion_at(gop, seen, pixels, draw_linear)
    if len(motion):
        basis = legendre(len(motion), frame_time(frame, gop.frames))
        place = place - np.tensordot(basis, motion, 1)
    side = max(_NEW_SIZE * math.sqrt(gop.width * gop.height / len(gop)), _NEW_THINNEST)
    color = _NEW_COLOR * cv2.GaussianBlur(residual, (0, 0), _RESIDUAL_BLUR)[y, x]
    return {
        "position": place.astype(np.float32),
        "log_scale": np.full((count, 2), math.log(side), np.float32),
        "shear": np.zeros(count, np.float32),
        "color": color.astype(np.float32),
        "motion": motion,
        "shade": np.zeros((len(gop.shade), count, 3), np.float32),
    }


def _motion_at(
    gop: Gop,
    seen: Gaussians2D,
    pixels: np.ndarray,
    draw_linear: Callable[[Gaussians2D, Window], np.ndarray],
) -> np.ndarray:
    """(K, M, 2) the motion of what shows at M pixels (counted by rows): the mean of the Gaussians
    there by weight and brightness, drawn as pictures of x, y and weight."""
    window = Window(0, 0, gop.width, gop.height)
    brightness = np.abs(seen.color).max(axis=1, keepdims=True)
    motion = np.zeros((len(gop.motion), len(pixels), 2), np.float32)
    for order, moved in enumerate(gop.motion):
        colors = np.concatenate([moved * brightness, brightness], axis=1)
        picture = draw_linear(Gaussians2D(seen.position, seen.cholesky, colors), window)
        x, y, weight = picture.reshape(-1, 3)[pixels].T
        motion[order] = np.stack([x, y], axis=1) / np.maximum(weight, 1e-3)[:, None]
    return motion
