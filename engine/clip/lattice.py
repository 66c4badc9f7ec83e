"""Lattices through zero that attributes are rounded to, and the grid that positions are.

Shared by the codecs that store codes with `point_codec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..render.splats import Quantized
from . import morton
from .clip import MAX_MAGNITUDE
from .decode import shared
from .fields import Fields
from .point_codec import MAX_CELL_BITS
from .quantize import dequantize_position

#: A renderer takes codes of 16 bits.
MAX_SCALE_LEVELS = (1 << 16) - 1
#: Radii are at least exp(-limit), at most exp(limit) units: what float32 holds, nearly.
LOG_LIMIT = 80.0


@dataclass(frozen=True, eq=False)
class Lattice:
    """Codes of an attribute's components: value = (code + offset) step, or its exponential.

    levels: the highest code.
    """

    codes: np.ndarray
    step: float
    offset: int
    levels: int

    @classmethod
    def of(cls, values: np.ndarray, step: float, dead_zone: float = 0.0) -> Lattice:
        """values: (C, N). The step grows until the codes fit into 16 bits."""
        extent = float(values.max()) - float(values.min())
        step = rounded_step(max(step, extent / (MAX_SCALE_LEVELS - 2)))
        scaled = values.astype(np.float64) / step
        whole = np.sign(scaled) * np.floor(np.abs(scaled) + 0.5 - dead_zone)
        low = int(whole.min())
        codes = (whole - low).astype(np.int32)
        return cls(codes, step, low, int(codes.max()))

    @property
    def header(self) -> list[float]:
        return [self.step, self.offset, self.levels]


@dataclass(frozen=True, eq=False)
class Grid:
    """Points in the cells of a cubic grid, in the order of the Morton curve.

    step: edge of a cell. origin: (3,) the lowest cell, in steps from the world's origin.
    cells: (N, 3) from there, ascending by Morton code. codes: (N,) these. order: (N,) the point in
    every place. bits: per axis.
    """

    step: float
    origin: np.ndarray
    cells: np.ndarray
    codes: np.ndarray
    order: np.ndarray
    bits: int

    @classmethod
    def of(cls, position: np.ndarray, step: float) -> Grid:
        """position: (N, 3), N > 0. step: wanted; outliers far away make the grid coarser before
        they make it unaddressable."""
        extent = float((position.max(axis=0) - position.min(axis=0)).max())
        step = rounded_step(max(step, extent / ((1 << MAX_CELL_BITS) - 2)))
        cells = np.rint(position.astype(np.float64) / step)
        origin = cells.min(axis=0)
        cells -= origin
        codes = morton.interleave(cells.astype(np.uint64))
        order = np.argsort(codes, kind="stable")
        codes, cells = codes[order], cells[order]
        return cls(step, origin, cells, codes, order, max(int(cells.max()).bit_length(), 1))

    @property
    def header(self) -> list[float]:
        return [self.step, *(int(value) for value in self.origin)]

    @property
    def positions(self) -> np.ndarray:
        """(N, 3) float32, as they are decoded, in this order."""
        return plain_positions(grid_positions(self.codes, self.bits, np.array(self.header)))

    @property
    def bounds(self) -> np.ndarray:
        """(2, 3) of the positions that are decoded."""
        edges = (self.origin, self.origin + self.cells.max(axis=0))
        return np.stack([edge * self.step for edge in edges])


def read_place(fields: Fields, bits: int) -> np.ndarray:
    """(4,) step and lowest cell of a grid's header. Raises ClipError."""
    place = fields.array("position", (4,))
    reach = (np.abs(place[1:]) + (1 << bits)) * place[0]
    if not (place[0] > 0 and (reach <= MAX_MAGNITUDE).all()):
        raise fields.fail("position", "a grid of cells")
    return place


def grid_positions(codes: np.ndarray, bits: int, place: np.ndarray) -> Quantized | np.ndarray:
    """Codes of the grid -> positions; place: step, and the lowest cell in steps from the origin."""
    step, low = float(place[0]), place[1:] * place[0]
    narrow = bits <= 16
    cells = np.empty((3, len(codes)), dtype=np.uint16 if narrow else np.uint32)
    morton.deinterleave(codes, cells)
    high = low + cells.max(axis=1) * step
    if not narrow:
        return shared(dequantize_position(cells, low, high, step))
    return Quantized(shared(cells.T), low=low, high=high, step=np.full(3, step))


def plain_positions(position: Quantized | np.ndarray) -> np.ndarray:
    """(N, 3) float32 of what `grid_positions` gives."""
    return position.positions() if isinstance(position, Quantized) else position


def read_scale(header: Fields, key: str) -> tuple[float, ...]:
    """step, offset and levels of a lattice."""
    values = header.array(key, (3,))
    step, offset, levels = values
    whole = offset == round(offset) and levels == round(levels)
    sensible = step > 0 and whole and 0 <= levels <= MAX_SCALE_LEVELS
    if not (sensible and (abs(offset) + levels) * step <= MAX_MAGNITUDE):
        raise header.fail(key, "a lattice")
    return tuple(values.tolist())


def scale_ends(scale: Sequence[float]) -> tuple[float, float, float]:
    """Lowest value, highest value and step."""
    step, offset, levels = scale
    return offset * step, (offset + levels) * step, step


def rounded_step(value: float) -> float:
    """A number of four digits, at least as large: it is written into every frame."""
    rounded = float(f"{value:.3e}")
    return rounded if rounded >= value else float(f"{value * 1.0006:.3e}")


def word(levels: float) -> type:
    return np.uint8 if levels < 256 else np.uint16
