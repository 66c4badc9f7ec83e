"""Where the Gaussians of a picture start: dense where it has detail, as large as their share."""

from __future__ import annotations

import math

import numpy as np

from ..clip import morton
from .gop import Gop

#: Share of the Gaussians that is spread evenly over the picture.
_EVEN_SHARE = 0.3
#: Standard deviation of a Gaussian in distances between Gaussians; smaller starts fit faster.
_SPREAD = 0.5
_THINNEST, _WIDEST = 0.3, 0.5  # pixels; share of the picture's longer side


def gaussians_of(picture: np.ndarray, count: int, seed: int, frames: int = 1) -> Gop:
    """A still group of `frames` pictures: `count` Gaussians for a picture (H, W, 3) uint8, untuned.

    Their density follows the magnitude of the picture's gradients (GaussianImage starts at random
    places). They are drawn by systematic sampling along a Morton curve, which leaves neither holes
    nor heaps, and come in its order.
    """
    import cv2

    height, width = picture.shape[:2]
    image = picture.astype(np.float32) / 255
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    squares = sum(cv2.Sobel(smooth, cv2.CV_32F, *axes) ** 2 for axes in ((1, 0), (0, 1)))
    detail = cv2.GaussianBlur(np.sqrt(squares.sum(axis=2)), (0, 0), 2.0).astype(np.float64)
    detail = detail / max(detail.sum(), 1e-9) * (1 - _EVEN_SHARE)
    density = detail + (1 - detail.sum()) / detail.size

    random = np.random.default_rng(seed)
    order = _curve(height, width)
    cumulative = np.cumsum(density.ravel()[order])
    marks = (np.arange(count) + random.uniform(0, 1, count)) * (cumulative[-1] / max(count, 1))
    pixels = order[np.searchsorted(cumulative, marks).clip(0, detail.size - 1)]
    y, x = np.divmod(pixels, width)

    area = 1 / (count * cv2.GaussianBlur(density, (0, 0), 3.0)[y, x])  # pixels per Gaussian
    scale = np.clip(_SPREAD * np.sqrt(area), _THINNEST, _WIDEST * max(width, height))
    # Gaussians of this size on a grid of this spacing add up to one over 2 pi spread^2.
    color = cv2.GaussianBlur(image, (0, 0), 1.5)[y, x] / (2 * math.pi * _SPREAD**2)
    position = np.stack([x, y], axis=1) + random.uniform(0, 1, (count, 2))
    return Gop(
        frames,
        width,
        height,
        position.astype(np.float32),
        np.repeat(np.log(scale)[:, None], 2, axis=1).astype(np.float32),
        np.zeros(count, np.float32),
        color.astype(np.float32),
        np.zeros((0, count, 2), np.float32),
        np.zeros((0, count, 3), np.float32),
    )


def _curve(height: int, width: int) -> np.ndarray:
    """Numbers of all pixels in Morton order."""
    cells = np.zeros((height * width, 3), dtype=np.uint64)
    cells[:, 1], cells[:, 0] = np.divmod(np.arange(height * width), width)
    return np.argsort(morton.interleave(cells), kind="stable")
