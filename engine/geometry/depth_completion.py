"""A whole surface from the places where its depth is known.

The inverse depth of a plane is linear in the image, so a surface that bends as little as possible
in inverse depth continues walls and floors as planes. Bending is cheaper across the image's edges,
where surfaces end, and its price is robust, so that a few sharp folds are better than many soft
ones.
"""

from __future__ import annotations

import numpy as np

#: The coarsest level of the pyramid is about so many pixels high.
_COARSEST = 12
#: Grey levels of 255 per pixel that make an edge, and how much cheaper bending can get there.
_EDGE, _EDGE_FLOOR = 12.0, 0.02
#: Pull towards flatness, relative to bending: decides only where nothing else does.
_FLATNESS = 1e-3
#: A fold is what bends more than so many times the median.
_FOLD = 4.0


def complete(
    data: np.ndarray,
    weight: np.ndarray,
    guide: np.ndarray | None = None,
    *,
    stiffness: float = 1.0,
    iterations: int = 40,
    folds: int = 1,
) -> np.ndarray:
    """The surface (H, W) float64 that follows `data` (H, W) where `weight` (H, W) >= 0 is.

    guide: (H, W) grey levels whose edges may be those of surfaces. stiffness: price of bending
    against the data's. iterations: of the conjugate gradient per level, coarse to fine. folds:
    rounds of making folds cheaper. Zero everywhere when nothing is known.
    """
    import cv2

    guide = np.zeros_like(data) if guide is None else guide
    levels = [tuple(np.asarray(a, dtype=np.float64) for a in (data, weight, guide))]
    while min(levels[-1][0].shape) > _COARSEST:
        fine, known, grey = levels[-1]
        size = (fine.shape[1] + 1) // 2, (fine.shape[0] + 1) // 2
        weights, sums, greys = (
            cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in (known, fine * known, grey)
        )
        levels.append((sums / np.maximum(weights, 1e-12), weights, greys))
    coarse, known, _ = levels[-1]
    surface = np.full_like(coarse, (coarse * known).sum() / max(known.sum(), 1e-12))
    for fine, known, grey in reversed(levels):
        surface = cv2.resize(surface, fine.shape[::-1], interpolation=cv2.INTER_LINEAR)
        slope = np.hypot(cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1)) / 8
        price = np.maximum(np.exp(-slope / _EDGE), _EDGE_FLOOR)
        surface = _solve(fine, known, price, stiffness, surface, iterations)
        for _ in range(folds):
            xx, yy, xy = _bending(surface)
            bend = np.sqrt(xx**2 + yy**2 + 2 * xy**2)
            fold = max(_FOLD * float(np.median(bend)), 1e-12)
            cheaper = price / (1 + (bend / fold) ** 2)
            surface = _solve(fine, known, cheaper, stiffness, surface, iterations // 2)
    return surface


def _solve(data, weight, price, stiffness, surface, iterations):
    """Minimise sum weight (s - data)^2 + stiffness price bending(s)^2 by conjugate gradients."""
    flat = stiffness * _FLATNESS
    across = flat * np.minimum(price[:, 1:], price[:, :-1])
    down = flat * np.minimum(price[1:], price[:-1])

    def normal(s):
        xx, yy, xy = _bending(s)
        result = weight * s + stiffness * _bending_transposed(
            price * xx, price * yy, 2 * price * xy
        )
        step = across * (s[:, 1:] - s[:, :-1])
        result[:, 1:] += step
        result[:, :-1] -= step
        step = down * (s[1:] - s[:-1])
        result[1:] += step
        result[:-1] -= step
        return result

    diagonal = weight + 20 * stiffness * price + 4 * flat * price + 1e-12
    residual = weight * data - normal(surface)
    direction = residual / diagonal
    energy = float((residual * direction).sum())
    surface = surface.copy()
    for _ in range(iterations):
        image = normal(direction)
        length = energy / max(float((direction * image).sum()), 1e-300)
        surface += length * direction
        residual -= length * image
        scaled = residual / diagonal
        following = float((residual * scaled).sum())
        direction = scaled + following / max(energy, 1e-300) * direction
        energy = following
    return surface


def _bending(s):
    """Second differences (xx, yy, xy) of s (H, W), zero where they would leave the image."""
    xx, yy, xy = np.zeros_like(s), np.zeros_like(s), np.zeros_like(s)
    xx[:, 1:-1] = s[:, :-2] - 2 * s[:, 1:-1] + s[:, 2:]
    yy[1:-1] = s[:-2] - 2 * s[1:-1] + s[2:]
    xy[:-1, :-1] = s[1:, 1:] - s[1:, :-1] - s[:-1, 1:] + s[:-1, :-1]
    return xx, yy, xy


def _bending_transposed(xx, yy, xy):
    """The transpose of `_bending`."""
    s = np.zeros_like(xx)
    a = xx[:, 1:-1]
    s[:, :-2] += a
    s[:, 1:-1] -= 2 * a
    s[:, 2:] += a
    a = yy[1:-1]
    s[:-2] += a
    s[1:-1] -= 2 * a
    s[2:] += a
    a = xy[:-1, :-1]
    s[1:, 1:] += a
    s[1:, :-1] -= a
    s[:-1, 1:] -= a
    s[:-1, :-1] += a
    return s
