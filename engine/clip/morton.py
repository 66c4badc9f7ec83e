"""The Morton curve: the bits of three cell numbers, interleaved into one code.

Bit i of the cell numbers x, y, z is bit 3 i, 3 i + 1, 3 i + 2 of the code, so points that are near
each other mostly have codes that are near each other.
"""

from __future__ import annotations

import numpy as np

#: Bits of a cell number; three of them fill 63 bits.
AXIS_BITS = 21


def interleave(cells: np.ndarray) -> np.ndarray:
    """Cell numbers (N, 3) uint64 below 2^21 -> codes (N,) uint64."""
    codes = _spread(cells[:, 0])
    codes |= _spread(cells[:, 1]) << np.uint64(1)
    codes |= _spread(cells[:, 2]) << np.uint64(2)
    return codes


def deinterleave(codes: np.ndarray, cells: np.ndarray) -> None:
    """Codes (N,) uint64 -> `cells` (3, N), uint16 or uint32, written in place.

    uint16 takes the lowest 16 bits of the cell numbers, which is all of them for codes below 2^48.
    """
    bits = codes.view(np.int64)  # what indices are, so that nothing has to be converted
    packed = np.take(_TABLES[0], bits & 0xFFF)
    for part in range(1, 4):
        index = bits >> 12 * part
        index &= 0xFFF
        packed |= np.take(_TABLES[part], index)
    cells[...] = packed.view("<u2").reshape(-1, 4)[:, :3].T
    if cells.dtype.itemsize > 2:
        high = np.empty(cells.shape, dtype=np.uint16)
        deinterleave(codes >> np.uint64(48), high)
        cells |= high.astype(cells.dtype) << 16


def _spread(cells: np.ndarray) -> np.ndarray:
    """Moves bit i of a 21-bit number to bit 3 i."""
    cells = cells & np.uint64(0x1FFFFF)
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        cells = (cells | (cells << np.uint64(shift))) & np.uint64(mask)
    return cells


def _table(part: int) -> np.ndarray:
    """(4096,) uint64: bits 12 part .. 12 part + 11 of a code -> x | y << 16 | z << 32."""
    codes = np.arange(1 << 12, dtype="<u8")
    table = np.zeros(1 << 12, dtype="<u8")
    for bit in range(12):
        index, axis = divmod(12 * part + bit, 3)
        table |= ((codes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(16 * axis + index)
    return table


_TABLES = tuple(_table(part) for part in range(4))
