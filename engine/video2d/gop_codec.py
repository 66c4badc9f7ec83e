"""A group of pictures in few bytes: lattices through zero, and the core's lossless point codec.

The codec knows cells in space; these Gaussians are in the plane, so their logarithmic width is the
third axis: neighbours are then Gaussians that are near and of like size, and no bit is spent on a
coordinate that says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..clip import morton
from ..clip.clip import DAMAGED_HINT
from ..clip.envelope import unwrap, wrap
from ..clip.fields import Fields
from ..clip.point_codec import MAX_CELL_BITS, Component, decode_points, encode_points
from ..errors import ClipError
from .gop import MAX_FRAMES, MAX_GAUSSIANS, MAX_ORDER, Gop

MAGIC = b"P4DG"
_MAX_LEVELS = (1 << 16) - 1
#: Bits of the third axis: as many as an octree of some ten thousand Gaussians leaves to a cell.
_MAX_WIDTH_LEVELS = (1 << 12) - 1
_LOG_LIMIT = 12.0
_STEP_LIMITS = 1e-6, 64.0
_VALUE_LIMIT = 1e5


@dataclass(frozen=True)
class Steps:
    """Distances of the lattices.

    position: pixels. scale: of ln l11 and ln l22. shear: of l21 / l22. color, shade: of the
    display's range, for a Gaussian of sides of 3 pixels; those of larger ones are shorter, because
    more pixels see the error. motion: pixels, for a Gaussian of brightness 0.1; those of brighter
    ones are shorter. Higher orders of motion and shade have the same steps.
    """

    position: float = 1 / 7
    scale: float = 1 / 40
    shear: float = 1 / 20
    color: float = 1 / 100
    motion: float = 1 / 5
    shade: float = 1 / 80

    def scaled(self, factor: float) -> Steps:
        """All steps longer by a factor: the one number that rate and quality depend on."""
        values = {name: value * factor for name, value in self.__dict__.items()}
        return replace(self, **{name: min(value, 8.0) for name, value in values.items()})


def color_weight(log_scale: np.ndarray) -> np.ndarray:
    """(N, 2) -> (N, 1): what colours are multiplied by before they are rounded. The square root of
    what equal errors in the picture ask for, which measured best."""
    side = np.exp(0.5 * log_scale.sum(axis=1, dtype=np.float64)) / 3
    return np.sqrt(np.clip(side, 0.2, 5.0))[:, None]


def motion_weight(color: np.ndarray) -> np.ndarray:
    """(N, 3) -> (N, 1): the same for motion."""
    brightness = np.abs(color.astype(np.float64)).max(axis=1) / 0.1
    return np.sqrt(np.clip(brightness, 0.3, 5.0))[:, None]


@dataclass(frozen=True)
class Lattice:
    """value = (code + offset) step, codes 0 .. levels."""

    step: float
    offset: int
    levels: int

    @classmethod
    def around(cls, values: np.ndarray, step: float, levels: int = _MAX_LEVELS) -> Lattice:
        """The lattice of this step, or of a longer one, that covers all values."""
        low, high = float(values.min()), float(values.max())
        step = _short(max(step, (high - low) / (levels - 1)))
        offset = round(low / step)
        return cls(step, offset, round(high / step) - offset)

    def codes(self, values: np.ndarray) -> np.ndarray:
        codes = np.rint(values.astype(np.float64) / self.step) - self.offset
        return np.clip(codes, 0, self.levels).astype(np.int32)

    def values(self, codes: np.ndarray) -> np.ndarray:
        return ((codes.astype(np.float64) + self.offset) * self.step).astype(np.float32)

    @property
    def header(self) -> list[float]:
        return [self.step, self.offset, self.levels]

    @classmethod
    def read(cls, fields: Fields, key: str, most: int = _MAX_LEVELS) -> Lattice:
        step, offset, levels = fields.array(key, (3,))
        whole = offset == round(offset) and levels == round(levels)
        if not (
            whole
            and _STEP_LIMITS[0] <= step <= _STEP_LIMITS[1]
            and 0 <= levels <= most
            and max(abs(offset), abs(offset + levels)) * step <= _VALUE_LIMIT
        ):
            raise fields.fail(key, "a lattice")
        return cls(float(step), int(offset), int(levels))


def encode_gop(gop: Gop, steps: Steps) -> bytes:
    """The chunk of a group of pictures."""
    fixed = {"frames": gop.frames, "width": gop.width, "height": gop.height, "gaussians": len(gop)}
    fixed["orders"] = [len(gop.motion), len(gop.shade)]
    if not len(gop):
        return wrap(MAGIC, fixed, [])
    step = _short(max(steps.position, np.ptp(gop.position, axis=0).max() / (2**MAX_CELL_BITS - 2)))
    cells = np.rint(gop.position.astype(np.float64) / step)
    origin = cells.min(axis=0)
    width = Lattice.around(gop.log_scale[:, 0], steps.scale, _MAX_WIDTH_LEVELS)
    cells = np.column_stack([cells - origin, width.codes(gop.log_scale[:, 0])])
    bits = max(int(cells.max()).bit_length(), 1)
    codes = morton.interleave(cells.astype(np.uint64))
    order = np.argsort(codes, kind="stable")
    coded = _Coded(order)
    down = coded.add(gop.log_scale[:, 1:], steps.scale)
    coded.add(gop.shear[:, None], steps.shear)
    # What weights are made of is what a reader has.
    heavy = color_weight(np.column_stack([width.values(cells[:, 2]), down]))
    color = coded.add(gop.color * heavy, steps.color) / heavy
    fast = motion_weight(color)
    for motion in gop.motion:
        coded.add(motion * fast, steps.motion)
    for shade in gop.shade:
        coded.add(shade * heavy, steps.shade)
    header = fixed | {
        "bits": bits,
        "position": [step, *(int(v) for v in origin)],
        "across": width.header,
        "lattices": [lattice.header for lattice in coded.lattices],
    }
    stream = encode_points(
        codes[order],
        np.concatenate(coded.rows),
        bits,
        _components(*fixed["orders"]),
    )
    return wrap(MAGIC, header, [stream])


def decode_gop(data: bytes, where: str) -> Gop:
    """The group of pictures in a chunk. Raises ClipError for what `encode_gop` has not made."""
    fields, payload = unwrap(data, MAGIC, "gaussian2d", where)
    frames = fields.integer("frames", 1, MAX_FRAMES)
    size = fields.integer("width", 1, 32767), fields.integer("height", 1, 32767)
    count = fields.integer("gaussians", 0, MAX_GAUSSIANS)
    motion, shade = fields.integers("orders", 2, 0, MAX_ORDER)
    if count == 0:
        if len(payload):
            raise ClipError("a group without Gaussians has data", where=where, hint=DAMAGED_HINT)
        return Gop(
            frames, *size, *(np.zeros(shape, np.float32) for shape in _shapes(motion, shade))
        )
    bits = fields.integer("bits", 1, MAX_CELL_BITS)
    step, *origin = fields.array("position", (3,))
    far = max(abs(value) for value in origin) + (1 << bits)
    if not (_STEP_LIMITS[0] <= step <= _STEP_LIMITS[1] and far * step <= 2 * _VALUE_LIMIT * 16):
        raise fields.fail("position", "a lattice")
    width = Lattice.read(fields, "across", _MAX_WIDTH_LEVELS)
    rows = fields.array("lattices", (3 + motion + shade, 3)).tolist()
    lattices = [
        Lattice.read(Fields({f"lattice {i}": row}, where), f"lattice {i}")
        for i, row in enumerate(rows)
    ]
    components = _components(motion, shade)
    codes, rows = decode_points(payload, count, bits, components, where)
    cells = np.empty((3, count), dtype=np.uint32)
    morton.deinterleave(codes, cells)
    if cells[2].max() > width.levels:
        raise ClipError("a width is beyond its lattice", where=where, hint=DAMAGED_HINT)
    position = (cells[:2].astype(np.float64).T + origin) * step
    values, first = [], 0
    for lattice, columns in zip(lattices, _columns(motion, shade), strict=True):
        part = rows[first : first + columns]
        if part.max() > lattice.levels:
            raise ClipError("a code is beyond its lattice", where=where, hint=DAMAGED_HINT)
        values.append(lattice.values(part).T)
        first += columns
    down, shear, color, *moving = values
    log_scale = np.column_stack([width.values(cells[2]), down])
    heavy = color_weight(log_scale)
    color = color / heavy
    fast = motion_weight(color)
    return Gop(
        frames,
        *size,
        position.astype(np.float32),
        np.clip(log_scale, -_LOG_LIMIT, _LOG_LIMIT),
        shear[:, 0],
        color.astype(np.float32),
        _stack([part / fast for part in moving[:motion]], count, 2),
        _stack([part / heavy for part in moving[motion:]], count, 3),
    )


def _stack(parts: list[np.ndarray], count: int, columns: int) -> np.ndarray:
    if not parts:
        return np.zeros((0, count, columns), np.float32)
    return np.stack(parts).astype(np.float32)


class _Coded:
    """The rows of codes, in the order of the points, and their lattices."""

    def __init__(self, order: np.ndarray) -> None:
        self.order = order
        self.lattices: list[Lattice] = []
        self.rows: list[np.ndarray] = []

    def add(self, values: np.ndarray, step: float) -> np.ndarray:
        """values (N, C), in the group's order; returns what a reader will have."""
        lattice = Lattice.around(values, step)
        codes = lattice.codes(values)
        self.lattices.append(lattice)
        self.rows.append(codes[self.order].T)
        return lattice.values(codes)


def _shapes(motion: int, shade: int) -> list[tuple[int, ...]]:
    """Of the arrays of a group without Gaussians."""
    return [(0, 2), (0, 2), (0,), (0, 3), (motion, 0, 2), (shade, 0, 3)]


def _columns(motion: int, shade: int) -> list[int]:
    """Of ln l22, shear, colour, every order of motion and of shade."""
    return [1, 1, 3, *[2] * motion, *[3] * shade]


def _components(motion: int, shade: int) -> list[Component]:
    """How the rows are coded: colour from near Gaussians, red and blue after green's error."""
    parts = [Component(True, -1, 0), Component(False, -1, 1)]
    row, group = 2, 2
    for columns in (3, *[2] * motion, *[3] * shade):
        near = columns == 2 or row == 2
        # Only an earlier row can be followed: green and blue follow red.
        follows = (-1, row, row) if columns == 3 else (-1, -1)
        for column in range(columns):
            parts.append(Component(near, follows[column], group + (column > 0)))
        row, group = row + columns, group + 2
    return parts


def _short(value: float) -> float:
    """Rounded to six digits, which is what the header says."""
    return float(f"{value:.6g}")
