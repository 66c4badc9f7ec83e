"""A K-Planes field in numpy: what `engine/model/kplanes.py` trains, evaluated without torch.

Source: K-Planes (Fridovich-Keil et al. 2023), combined as f = f_xy f_zt + f_xz f_yt + f_yz f_xt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .fragment import RADIUS_LIMITS, Evaluated

#: Space plane and the time plane that completes it, as indices into (x, y, z, t).
PLANE_PAIRS = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((1, 2), (0, 3)))
#: SH coefficients are so many tanh: a head's unit output should not be worth a full swing of colour
#: (4K4D damps by as much).
SHADING = 0.25


@dataclass(frozen=True, eq=False)
class PlaneField:
    """bounds: (2, 3) world box of the planes. spacing: of the points, world units.
    levels: per spatial resolution six planes in the order space, time, space, ... of PLANE_PAIRS,
    each (H, W, C) float32; a time plane's H is time. start: raw radius and density that the heads
    add to. layers: weight (out, in) and bias (out,) of the two layers of the heads, float32.
    first: step of the planes' time axis that is step 0 of `evaluate`.
    """

    bounds: np.ndarray
    spacing: float
    levels: Sequence[Sequence[np.ndarray]]
    start: tuple[float, float]
    layers: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    first: int = 0

    def unit(self, position: np.ndarray) -> np.ndarray:
        """(N, 3) places in the box, 0 to 1; what lies outside is moved to its side."""
        low = self.bounds[0].astype(np.float32)
        extent = np.maximum(self.bounds[1] - self.bounds[0], 1e-12).astype(np.float32)
        return np.clip((position - low) / extent, 0, 1)

    def features(self, step: int, position: np.ndarray) -> np.ndarray:
        """(N, C of all levels) float32."""
        unit = self.unit(position)
        features = []
        for planes in self.levels:
            total = None
            for pair, ((a, b), (c, _)) in enumerate(PLANE_PAIRS):
                space, time = planes[2 * pair], planes[2 * pair + 1]
                row = time[min(self.first + step, len(time) - 1)]
                product = _plane(space, unit[:, a], unit[:, b])
                product *= _line(row, unit[:, c])
                total = product if pair == 0 else np.add(total, product, out=total)
            features.append(total)
        return np.concatenate(features, axis=1)

    def evaluate(self, step: int, position: np.ndarray) -> Evaluated:
        first, first_bias, second, second_bias = self.layers
        hidden = self.features(step, position) @ first.T
        hidden += first_bias
        output = np.maximum(hidden, 0, out=hidden) @ second.T
        output += second_bias
        low, high = RADIUS_LIMITS
        radius = low + (high - low) * _sigmoid(output[:, 0] + self.start[0])
        density = np.maximum(_sigmoid(output[:, 1] + self.start[1]), np.float32(1e-7))
        sh = SHADING * np.tanh(output[:, 2:])
        radius = np.maximum(radius * self.spacing, np.float32(1e-30))
        return radius.astype(np.float32), density, sh.reshape(len(sh), -1, 3)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-np.clip(values, -80, 80)))).astype(np.float32)


def _corners(unit: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The texel before, and how far it is to the next."""
    place = unit * np.float32(size - 1)
    texel = np.minimum(place.astype(np.int32), max(size - 2, 0))
    return texel, (place - texel)[:, None]


def texel_weights(
    size: tuple[int, int], across: np.ndarray, down: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The texels (N,) that points are interpolated from, and their weights (N,), corner by corner.
    size: (H, W). across, down: (N,) in [0, 1]; down None for a single row."""
    column, right = _corners(across, size[1])
    horizontal = ((0, 1 - right[:, 0]), (1, right[:, 0]))
    if down is None:
        yield from ((column + shift, part) for shift, part in horizontal)
        return
    row, below = _corners(down, size[0])
    for lower, vertical in ((0, 1 - below[:, 0]), (1, below[:, 0])):
        for shift, part in horizontal:
            yield (row + lower) * size[1] + column + shift, vertical * part


def _line(row: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """row: (W, C), W >= 2."""
    texel, part = _corners(unit, len(row))
    return _between(np.take(row, texel, 0), np.take(row, texel + 1, 0), part)


def _between(before: np.ndarray, after: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Linear interpolation, into `after`."""
    after -= before
    after *= part
    after += before
    return after


def _plane(plane: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """plane: (H, W, C), H, W >= 2."""
    height, width, channels = plane.shape
    column, right = _corners(across, width)
    row, below = _corners(down, height)
    texels = plane.reshape(-1, channels)
    first = row * width + column
    # np.take is twice as fast as brackets.
    upper = _between(np.take(texels, first, 0), np.take(texels, first + 1, 0), right)
    first += width
    lower = _between(np.take(texels, first, 0), np.take(texels, first + 1, 0), right)
    lower -= upper
    lower *= below
    lower += upper
    return lower
