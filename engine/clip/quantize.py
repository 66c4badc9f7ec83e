"""Quantisation of point attributes.

Every quantiser works from the true lowest and highest value of the block: nothing is clipped.
`levels` is the highest code; code 0 decodes to `low`, code `levels` to `high`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from . import morton

MAX_POSITION_LEVELS = (1 << morton.AXIS_BITS) - 1
#: A float32 tells 2^24 steps of a range apart; finer codes would store its rounding.
MAX_LEVELS = 1 << 24
#: Decoded through a table of this size; a ratio of 1e38 at 0.5 % takes 17,500 levels.
MAX_LOG_LEVELS = (1 << 16) - 1
MIN_POSITION_LEVELS = (1 << 16) - 1
#: Largest value of any basis function of SH band l, sqrt((2 l + 1) / 4 pi). It is also the root of
#: the band's sum of squares (addition theorem), so it turns a step of the coefficients into the
#: error of the colour in every direction.
SH_PEAK = tuple(math.sqrt((2 * band + 1) / (4 * math.pi)) for band in range(4))


@dataclass(frozen=True)
class Precision:
    """The largest steps of the codes. A decoded value is at most half a step from the original.

    position: in units of the frame's median radius; the grid has 16 bits per axis or, where
        outliers stretch the bounds so far that this is too coarse, up to 21.
    radius: relative. density: absolute. color: of the constant SH band, absolute in the colour.
    shading: of all bands above together, absolute in the colour; they share it evenly.
    With the defaults a clip's pictures are about 60 dB from the unquantised ones, which is as near
    as 8-bit pixels come (docs/clip-format.md has the measurement).
    """

    position: float = 1 / 32
    radius: float = 0.005
    density: float = 1 / 255
    color: float = 1 / 512
    shading: float = 1 / 256

    def sh_step(self, band: int, degree: int) -> float:
        """Largest step of the coefficients of one band in a cloud of this SH degree."""
        color = self.color if band == 0 else self.shading / math.sqrt(degree)
        return color / SH_PEAK[band]


def level_count(extent: float, step: float, highest: int = MAX_LEVELS) -> int:
    """Steps of at most `step` that cover `extent`: 0 for a constant, never above `highest`."""
    if extent <= 0:
        return 0
    return min(max(math.ceil(extent / step), 1), highest)


def quantize_linear(values: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    """Values in [low, high] -> codes 0..levels, int64, same shape."""
    scale = levels / (high - low) if levels else 0.0
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.int64)


def dequantize_linear(codes: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    """Codes -> float32: min(fl(fl(code * step) + low), high) in float32, bit for bit everywhere."""
    values = codes.astype(np.float32)
    with np.errstate(over="ignore"):  # codes of a damaged file; the minimum below catches them
        values *= np.float32((high - low) / max(levels, 1))
    values += np.float32(low)
    return np.minimum(values, np.float32(high), out=values)


def quantize_log(values: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    """Positive values -> codes that are equidistant in log(value)."""
    return quantize_linear(np.log(values.astype(np.float64)), math.log(low), math.log(high), levels)


def log_table(low: float, high: float, levels: int) -> np.ndarray:
    """The float32 values in [low, high] of the codes 0..levels of `quantize_log`; later codes of a
    damaged file mean the last one."""
    step = (math.log(high) - math.log(low)) / max(levels, 1)
    table = np.exp(math.log(low) + step * np.arange(levels + 1)).astype(np.float32)
    return np.clip(table, np.float32(low), np.float32(high))


def position_grid(
    position: np.ndarray, median_radius: float, precision: Precision
) -> tuple[np.ndarray, np.ndarray, float]:
    """Grid of a frame: low (3,), high (3,) float64 and one step for the three axes.

    The cells are cubes, so that a step along the Morton curve means the same in every direction.
    """
    low = position.min(axis=0).astype(np.float64)
    high = position.max(axis=0).astype(np.float64)
    extent = float((high - low).max())
    levels = level_count(extent, precision.position * median_radius, MAX_POSITION_LEVELS)
    return low, high, extent / max(levels, MIN_POSITION_LEVELS)


def quantize_position(position: np.ndarray, low: np.ndarray, step: float) -> np.ndarray:
    """Positions (N, 3) -> Morton codes (N,) uint64, not sorted."""
    scale = 1 / step if step > 0 else 0.0
    cells = np.rint((position.astype(np.float64) - low) * scale)
    cells = np.minimum(cells, MAX_POSITION_LEVELS).astype(np.uint64)
    return morton.interleave(cells)


def dequantize_position(
    cells: np.ndarray, low: np.ndarray, high: np.ndarray, step: float
) -> np.ndarray:
    """Cell numbers (3, N) -> positions (N, 3) float32: min(low + cell * step, high)."""
    position = np.empty((cells.shape[1], 3), dtype=np.float32)
    for axis in range(3):
        values = cells[axis].astype(np.float64)
        values *= step
        values += low[axis]
        position[:, axis] = np.minimum(values, high[axis], out=values)
    return position
