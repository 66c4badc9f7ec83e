"""The field coefficient x basis of the codec "residual", in numpy: what a player evaluates.

Source: dictionary fields (Chen et al. 2023), in the form of rate-distortion optimised dynamic NeRF
coding (arXiv 2402.01380, section 3): output = P(interp(x, C) * interp(gamma(x), B)). C is one grid
over the box of the fragment; B has several, each of which repeats itself in space: gamma is a
sawtooth. P is a small network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..render.splats import SH_COUNTS
from .fragment import RADIUS_LIMITS

#: What an integer of the network is worth, and by default one of the coefficients and of the basis.
WEIGHT_STEP, COEFFICIENT_STEP, BASIS_STEP = 1 / 64, 1 / 8, 1 / 16


@dataclass(frozen=True)
class Grid:
    """Values at the corners of cubes. shape: corners along x, y, z. cell: world units. channels: of
    every corner. periodic: it repeats itself; what is outside it is like its rim otherwise."""

    shape: tuple[int, int, int]
    cell: float
    channels: int
    periodic: bool

    @property
    def corners(self) -> int:
        return math.prod(self.shape)

    def interpolation(
        self, position: np.ndarray, origin: Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Corners around positions (N, 3), (N, 8) int32, and their trilinear weights, float32."""
        at = (position.astype(np.float64) - np.asarray(origin)) / self.cell
        size = np.array(self.shape)
        at = np.mod(at, size) if self.periodic else np.clip(at, 0, size - 1)
        whole = np.floor(at) if self.periodic else np.minimum(np.floor(at), size - 2)
        part = at - whole
        low = whole.astype(np.int64)
        pair = np.stack([low, low + 1])  # (2, N, 3)
        if self.periodic:
            pair %= size  # the corner after the last one, and a remainder rounded up to the period
        stride = np.array([1, self.shape[0], self.shape[0] * self.shape[1]])
        pair = pair * stride
        share = np.stack([1 - part, part])
        index = np.empty((len(position), 8), dtype=np.int32)
        weight = np.empty((len(position), 8), dtype=np.float32)
        for corner in range(8):
            x, y, z = corner & 1, corner >> 1 & 1, corner >> 2
            index[:, corner] = pair[x, :, 0] + pair[y, :, 1] + pair[z, :, 2]
            weight[:, corner] = share[x, :, 0] * share[y, :, 1] * share[z, :, 2]
        return index, weight


@dataclass(frozen=True)
class FieldLayout:
    """What all frames of a fragment agree on.

    origin: (3,) lowest corner of all grids, world units. spacing: of the points. coefficient: C,
    with as many channels as all grids of `basis` together. hidden: width of the network's only
    hidden layer. start: what is added to its first two outputs, raw radius and raw density. steps:
    what an integer of C and one of B is worth; C is one more than that, so zeros leave B as it is.
    """

    origin: tuple[float, float, float]
    spacing: float
    sh_degree: int
    coefficient: Grid
    basis: tuple[Grid, ...]
    hidden: int
    start: tuple[float, float]
    steps: tuple[float, float] = (COEFFICIENT_STEP, BASIS_STEP)

    @property
    def channels(self) -> int:
        return sum(grid.channels for grid in self.basis)

    @property
    def outputs(self) -> int:
        """Raw radius, raw density and the harmonics."""
        return 2 + 3 * SH_COUNTS[self.sh_degree]

    @property
    def network_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Weights and biases of both layers."""
        hidden, outputs = self.hidden, self.outputs
        return (self.channels, hidden), (hidden,), (hidden, outputs), (outputs,)

    @property
    def values(self) -> int:
        """Numbers in C and B."""
        grids = (self.coefficient, *self.basis)
        return sum(grid.corners * grid.channels for grid in grids)


#: Basis grids: cell in point spacings, corners per period, channels. 6 levels of 4, 4, 4, 2, 2 and
#: 2 channels as in DiF. Periods are no multiples of each other: no two places share all of them.
#: Cells are coarse because points have colours and radii of their own: with cells of 4 to 12
#: spacings the basketball capture took 0.6 kB more a frame for the same PSNR.
LEVELS = ((20.0, 8, 4), (16.0, 9, 4), (12.0, 10, 4), (9.5, 11, 2), (8.0, 12, 2), (6.5, 13, 2))
#: Cells of the coefficients, in spacings.
COEFFICIENT_CELL = 20.0
HIDDEN = 32
MAX_CORNERS = 1 << 17
#: Points that are evaluated at a time: more only take memory.
_BLOCK = 1 << 16
#: A density of nothing is no point.
_LEAST_DENSITY = np.float32(1e-4)


def make_layout(
    bounds: np.ndarray,
    spacing: float,
    sh_degree: int,
    start: tuple[float, float],
    *,
    size: float = 1.0,
    coarseness: float = 1.0,
) -> FieldLayout:
    """A field for points inside `bounds` (2, 3). size: of all cells, relative to the default; the
    cells of C grow until it has no more corners than memory is for. coarseness: of its steps."""
    extent = np.asarray(bounds[1], dtype=np.float64) - bounds[0]
    cell = COEFFICIENT_CELL * spacing * size
    while np.prod(np.ceil(extent / cell) + 2) > MAX_CORNERS:
        cell *= 1.25
    shape = tuple(int(n) for n in np.maximum(np.ceil(extent / cell) + 1, 2))
    basis = tuple(
        Grid((period,) * 3, float(f"{wide * spacing * size:.6g}"), channels, True)
        for wide, period, channels in LEVELS
    )
    channels = sum(grid.channels for grid in basis)
    return FieldLayout(
        tuple(float(f"{v:.6g}") for v in bounds[0]),
        float(f"{spacing:.6g}"),
        sh_degree,
        Grid(shape, float(f"{cell:.6g}"), channels, False),
        basis,
        HIDDEN,
        start,
        (COEFFICIENT_STEP * coarseness, BASIS_STEP * coarseness),
    )


@dataclass(frozen=True, eq=False)
class FieldState:
    """The integers of one frame. coefficient: (corners, channels). basis: one such per level."""

    coefficient: np.ndarray
    basis: tuple[np.ndarray, ...]


def evaluate(
    layout: FieldLayout, state: FieldState, network: Sequence[np.ndarray], position: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radius (N,), density (N,) and harmonics (N, B, 3) of points at `position` (N, 3), float32.

    network: integers, shaped as the layout says. Decoding is exact in these integers; what they
    evaluate to differs between machines by roundings of float32, which nothing is predicted from.
    """
    parts = [
        _evaluated(layout, state, network, position[first : first + _BLOCK])
        for first in range(0, max(len(position), 1), _BLOCK)
    ]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _evaluated(
    layout: FieldLayout, state: FieldState, network: Sequence[np.ndarray], position: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    origin = layout.origin
    coefficient = _sampled(layout.coefficient, state.coefficient, position, origin)
    features = 1 + np.float32(layout.steps[0]) * coefficient
    first = 0
    for grid, values in zip(layout.basis, state.basis, strict=True):
        sampled = _sampled(grid, values, position, origin)
        features[:, first : first + grid.channels] *= np.float32(layout.steps[1]) * sampled
        first += grid.channels
    w1, b1, w2, b2 = (np.float32(WEIGHT_STEP) * weights.astype(np.float32) for weights in network)
    output = np.maximum(features @ w1 + b1, 0) @ w2 + b2
    low, high = (factor * layout.spacing for factor in RADIUS_LIMITS)
    raw = output[:, :2] + np.array(layout.start, dtype=np.float32)
    # Written so that no exponential overflows.
    part = 0.5 + 0.5 * np.tanh(0.5 * raw)
    radius = np.float32(low) + np.float32(high - low) * part[:, 0]
    sh = output[:, 2:].reshape(len(position), SH_COUNTS[layout.sh_degree], 3)
    return radius, np.maximum(part[:, 1], _LEAST_DENSITY), sh


def _sampled(
    grid: Grid, values: np.ndarray, position: np.ndarray, origin: Sequence[float]
) -> np.ndarray:
    index, weight = grid.interpolation(position, origin)
    values = values.astype(np.float32)
    total = np.zeros((len(position), grid.channels), dtype=np.float32)
    for corner in range(8):
        total += weight[:, corner, None] * values[index[:, corner]]
    return total
