"""The codec "residual": fragments whose field is coefficient x basis, coded frame by frame as
differences from the frame before.

"P4DR" | header length, u32 little endian | header, JSON | for every frame: tables, masks, symbols

All that is coded are integers, and a frame's are sums of those up to it: any frame is there at
once, and the same on every machine. Source: rate-distortion optimised dynamic NeRF coding (arXiv
2402.01380, section 3); the coding of masks and the two-parameter tables are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ClipError
from ..render.splats import SH_COUNTS
from .clip import DAMAGED_HINT
from .dictionary import MAX_CORNERS, FieldLayout, FieldState, Grid, evaluate
from .envelope import unwrap, wrap
from .fields import Fields
from .fragment import Evaluated, FieldCodec, Member
from .symbol_coder import decode_symbols, encode_symbols
from .symbol_tables import SymbolTable, fitted_table

NAME = "residual"
MAGIC = b"P4DR"
#: Magnitudes of differences and of the network's weights.
MAX_DIFFERENCE, MAX_WEIGHT = 31, 127
_MAX_FRAMES, _MAX_LEVELS, _MAX_PERIOD, _MAX_CHANNELS, _MAX_HIDDEN = 256, 16, 48, 16, 256
#: Numbers of all frames together that a fragment may have.
_MAX_VALUES = 1 << 26
_TABLE_BYTES = 3


@dataclass(frozen=True, eq=False)
class ResidualFragment:
    """A decoded fragment. states: of every frame. network: shared by all."""

    layout: FieldLayout
    states: Sequence[FieldState]
    network: Sequence[np.ndarray]

    def evaluate(self, step: int, position: np.ndarray) -> Evaluated:
        """See `fragment.FieldFragment`."""
        return evaluate(self.layout, self.states[step], self.network, position)


def encode_residual(
    layout: FieldLayout,
    network: Sequence[np.ndarray],
    differences: Sequence[Sequence[np.ndarray]],
) -> Member:
    """A fragment. network: integers up to MAX_WEIGHT. differences: of every frame those of C and of
    each level of B from the frame before, (corners, channels) integers up to MAX_DIFFERENCE; of the
    first frame from zero."""
    payload: list[bytes] = []
    sizes: list[list[int]] = []
    nbytes = {"coefficient": 0, "basis": 0, "network": 0}
    for number, frame in enumerate(differences):
        tables, masks, symbols = _encode_frame(frame, network if number == 0 else ())
        payload += [tables, masks, symbols]
        sizes.append([len(tables), len(masks), len(symbols)])
        total = sum(sizes[-1])
        # One stream has them all: shares are what the rest takes without.
        basis = sum(map(len, _encode_frame(frame[1:], ())))
        both = sum(map(len, _encode_frame(frame, ()))) if number == 0 else total
        nbytes["basis"] += basis
        nbytes["coefficient"] += both - basis
        nbytes["network"] += total - both
    header = {
        "frames": len(differences),
        "origin": list(layout.origin),
        "spacing": layout.spacing,
        "sh_degree": layout.sh_degree,
        "hidden": layout.hidden,
        "start": list(layout.start),
        "steps": list(layout.steps),
        "coefficient": {"shape": list(layout.coefficient.shape), "cell": layout.coefficient.cell},
        "basis": [
            {"period": grid.shape[0], "cell": grid.cell, "channels": grid.channels}
            for grid in layout.basis
        ],
        "bytes": sizes,
    }
    return Member(wrap(MAGIC, header, payload), nbytes)


def decode_residual(data: bytes, base: object, where: str) -> ResidualFragment:
    """The fragment that `encode_residual` wrote. Raises ClipError for anything else."""
    header, payload = unwrap(data, MAGIC, NAME, where)
    layout = _layout(header)
    frames = header.integer("frames", 1, _MAX_FRAMES)
    if layout.values * frames > _MAX_VALUES:
        raise header.fail("frames", f"few enough for {_MAX_VALUES} numbers")
    sizes = header.values.get("bytes")
    if not isinstance(sizes, list) or len(sizes) != frames:
        raise header.fail("bytes", "a list of an entry per frame")
    rows = [Fields({"bytes": row}, where).integers("bytes", 3, 0, len(payload)) for row in sizes]
    if sum(map(sum, rows)) != len(payload):
        raise header.fail("bytes", "as long as the fragment")
    grids = (layout.coefficient, *layout.basis)
    values = [np.zeros((grid.corners, grid.channels), dtype=np.int16) for grid in grids]
    states: list[FieldState] = []
    network: list[np.ndarray] = []
    first = 0
    for number, row in enumerate(rows):
        parts = []
        for size in row:
            parts.append(payload[first : first + size])
            first += size
        shapes = layout.network_shapes if number == 0 else ()
        differences, weights = _decode_frame(parts, grids, shapes, f"{where}, frame {number}")
        network = network or weights
        values = [
            before if difference is None else before + difference
            for before, difference in zip(values, differences, strict=True)
        ]
        states.append(FieldState(values[0], tuple(values[1:])))
    return ResidualFragment(layout, states, network)


CODEC = FieldCodec(decode_residual)


def _encode_frame(
    differences: Sequence[np.ndarray], network: Sequence[np.ndarray]
) -> tuple[bytes, bytes, bytes]:
    """Tables, then which corners have anything, then what these have and the network."""
    tables: list[bytes] = []
    masks = _Symbols()
    symbols = _Symbols()
    for difference in differences:
        active = (difference != 0).any(axis=1)
        tables.append(masks.add(active.astype(np.int64)))
        if active.any():
            for channel in difference[active].T:
                tables.append(symbols.add(channel))
    for weights in network:
        tables.append(symbols.add(weights.ravel()))
    return b"".join(tables), masks.encode(), symbols.encode()


def _decode_frame(
    parts: Sequence[memoryview],
    grids: Sequence[Grid],
    network_shapes: Sequence[tuple[int, ...]],
    where: str,
) -> tuple[list[np.ndarray | None], list[np.ndarray]]:
    """The differences of every grid, None where there are none, and the network."""
    tables, masks, symbols = parts
    left = memoryview(tables)

    def take(highest: int) -> SymbolTable:
        nonlocal left
        if len(left) < _TABLE_BYTES:
            raise ClipError("tables are missing", where=where, hint=DAMAGED_HINT)
        table = SymbolTable.from_bytes(bytes(left[:_TABLE_BYTES]))
        left = left[_TABLE_BYTES:]
        if table.highest > highest:
            raise ClipError("a table is too long", where=where, hint=DAMAGED_HINT)
        return table

    mask_tables, tables_of = [], []
    for grid in grids:
        mask_tables.append(take(1))
        used = mask_tables[-1].highest > 0
        tables_of.append([take(MAX_DIFFERENCE) for _ in range(grid.channels)] if used else [])
    weight_tables = [take(MAX_WEIGHT) for _ in network_shapes]
    if len(left):
        raise ClipError("more tables than grids", where=where, hint=DAMAGED_HINT)

    coded = [
        (grid, table, own)
        for grid, table, own in zip(grids, mask_tables, tables_of, strict=True)
        if own
    ]
    flags = _decode(masks, [(table, grid.corners) for grid, table, _ in coded], where)
    active = [np.flatnonzero(flag) for flag in flags]
    runs = [
        (table, len(corners))
        for (_, _, own), corners in zip(coded, active, strict=True)
        for table in own
    ]
    runs += [
        (table, int(np.prod(shape)))
        for table, shape in zip(weight_tables, network_shapes, strict=True)
    ]
    values = iter(_decode(symbols, runs, where))
    differences: list[np.ndarray | None] = []
    corners_of = iter(active)
    for grid, own in zip(grids, tables_of, strict=True):
        if not own:
            differences.append(None)
            continue
        difference = np.zeros((grid.corners, grid.channels), dtype=np.int16)
        corners = next(corners_of)
        for channel in range(grid.channels):
            difference[corners, channel] = next(values)
        differences.append(difference)
    network = [next(values).reshape(shape).astype(np.int8) for shape in network_shapes]
    return differences, network


class _Symbols:
    """Runs of integers, each with a table of its own, on their way into one stream."""

    def __init__(self) -> None:
        self._runs: list[tuple[SymbolTable, np.ndarray]] = []

    def add(self, values: np.ndarray) -> bytes:
        """Queue a run; returns its table."""
        values = values.astype(np.int64)  # int8 cannot hold a number of the network as a symbol
        table = fitted_table(values)
        if table.highest:
            self._runs.append((table, values))
        return table.to_bytes()

    def encode(self) -> bytes:
        if not self._runs:
            return b""
        return encode_symbols(
            np.concatenate([values + table.highest for table, values in self._runs]),
            [table.frequencies for table, _ in self._runs],
            np.repeat(np.arange(len(self._runs)), [len(values) for _, values in self._runs]),
        )


def _decode(
    data: memoryview, runs: Sequence[tuple[SymbolTable, int]], where: str
) -> list[np.ndarray]:
    """Runs of integers as `_Symbols` has coded them; of zeros where a table has nothing else."""
    coded = [(table, count) for table, count in runs if table.highest]
    values = np.zeros(0, dtype=np.int32)
    if coded:
        counts = [count for _, count in coded]
        values = decode_symbols(
            data,
            sum(counts),
            [table.frequencies for table, _ in coded],
            np.repeat(np.arange(len(coded)), counts),
            where,
        )
    elif len(data):
        raise ClipError("more symbols than numbers", where=where, hint=DAMAGED_HINT)
    result, first = [], 0
    for table, count in runs:
        if table.highest:
            result.append(values[first : first + count] - table.highest)
            first += count
        else:
            result.append(np.zeros(count, dtype=np.int32))
    return result


def _layout(header: Fields) -> FieldLayout:
    levels = header.mappings("basis")
    if not 1 <= len(levels) <= _MAX_LEVELS:
        raise header.fail("basis", f"a list of 1 to {_MAX_LEVELS} levels")
    basis = tuple(
        Grid(
            (level.integer("period", 2, _MAX_PERIOD),) * 3,
            level.number("cell", 1e-9),
            level.integer("channels", 1, _MAX_CHANNELS),
            True,
        )
        for level in levels
    )
    coefficient = header.mapping("coefficient")
    shape = coefficient.integers("shape", 3, 2, MAX_CORNERS)
    if np.prod(shape, dtype=np.float64) > MAX_CORNERS:
        raise coefficient.fail("shape", f"of at most {MAX_CORNERS} corners")
    channels = sum(grid.channels for grid in basis)
    steps = header.array("steps", (2,))
    if not ((steps > 0) & (steps <= 16)).all():
        raise header.fail("steps", "two numbers in (0, 16]")
    return FieldLayout(
        tuple(header.array("origin", (3,)).tolist()),
        header.number("spacing", 1e-9),
        header.integer("sh_degree", 0, len(SH_COUNTS) - 1),
        Grid(shape, coefficient.number("cell", 1e-9), channels, False),
        basis,
        header.integer("hidden", 1, _MAX_HIDDEN),
        tuple(header.array("start", (2,)).tolist()),
        tuple(steps.tolist()),
    )
