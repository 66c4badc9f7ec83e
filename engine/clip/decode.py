"""Decoding one chunk: the points of one frame in the codes of the file, or as plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ClipError
from ..render.splats import SH_COUNTS, PackedSplats, Quantized, Splats
from . import morton, planes
from .chunk import MAGIC
from .clip import DAMAGED_HINT, MAX_POINTS
from .compression import Decompressor
from .envelope import unwrap
from .fields import Fields
from .quantize import (
    MAX_LEVELS,
    MAX_LOG_LEVELS,
    dequantize_linear,
    dequantize_position,
    log_table,
)

#: The highest code that a renderer takes as it is (uint16).
_MAX_CODE = (1 << 16) - 1


def decode_packed(data: bytes, points: int, sh_degree: int, where: str) -> PackedSplats:
    """The points in a chunk, which must hold `points` points, mostly as the codes of the file.

    position is Quantized (uint16) unless its grid has more than 65,536 cells along an axis; radius
    (through a table), density and sh are Quantized unless they have more than 65,536 codes. Codes
    lie component by component in memory. Bands up to `sh_degree` that the chunk does not have are
    zero. The arrays are read-only.

    Blocks of attributes that this program does not know are skipped. Raises ClipError for anything
    that is not as specified.
    """
    header, payload = unwrap(data, MAGIC, "baked", where)
    if header.integer("points", 0, MAX_POINTS) != points:
        raise header.fail("points", f"the {points} that clip.json announces")
    components = {"position": 3, "radius": 1, "density": 1, "sh": 3 * SH_COUNTS[sh_degree]}
    blocks = _blocks(header.mappings("blocks"), components, payload, where)
    if points == 0:
        empty = Splats.empty(sh_degree)
        return PackedSplats(empty.position, empty.radius, empty.density, empty.sh)
    decompressor = Decompressor(header.text("compression"), where)
    for name in ("position", "radius", "density"):
        if not blocks[name]:
            raise ClipError(f"has no block '{name}'", where=where, hint=DAMAGED_HINT)
    position = _decode_position(*blocks["position"][0], points, decompressor)
    radius, density, sh = (
        _decode_codes(
            [_Codes.of(block, body, components[name]) for block, body in blocks[name]],
            components[name],
            points,
            decompressor,
        )
        for name in ("radius", "density", "sh")
    )
    return PackedSplats(
        position,
        radius if isinstance(radius, Quantized) else radius[:, 0],
        density if isinstance(density, Quantized) else density[:, 0],
        sh if isinstance(sh, Quantized) else sh.reshape(points, -1, 3),
    )


def decode_chunk(data: bytes, points: int, sh_degree: int, where: str) -> Splats:
    """The points in a chunk as plain numbers; `decode_packed` says what it takes and raises."""
    return decode_packed(data, points, sh_degree, where).unpack()


def _blocks(
    blocks: Sequence[Fields], components: dict[str, int], payload: memoryview, where: str
) -> dict[str, list[tuple[Fields, memoryview]]]:
    """The blocks of every attribute in `components`, and their bytes."""
    known: dict[str, list[tuple[Fields, memoryview]]] = {name: [] for name in components}
    offset, seen = 0, set()
    for block in blocks:
        nbytes = block.integer("bytes", 0, len(payload) - offset)
        body = payload[offset : offset + nbytes]
        offset += nbytes
        name = block.text("name")
        if name not in known:
            continue
        first = block.integer("first", 0, components[name] - 1)
        if (name, first) in seen:
            raise block.fail("first", "of a block of its own")
        seen.add((name, first))
        known[name].append((block, body))
    if offset != len(payload):
        raise ClipError("bytes are left over", where=where, hint=DAMAGED_HINT)
    return known


def _decode_planes(
    block: Fields, body: memoryview, count: int, points: int, decompressor: Decompressor
) -> Iterator[bytes]:
    """The `count` planes of a block, each of one byte per point, decompressed when asked for."""
    sizes = block.integers("planes", count, 0, len(body))
    if sum(sizes) != len(body):
        raise block.fail("planes", "as long as the block")
    offset = 0
    for size in sizes:
        yield decompressor.decompress(body[offset : offset + size], points)
        offset += size


def _decode_position(
    block: Fields, body: memoryview, points: int, decompressor: Decompressor
) -> Quantized | np.ndarray:
    if block.text("scale") != "morton":
        raise block.fail("scale", "morton")
    sizes = block.values.get("planes")
    count = len(sizes) if isinstance(sizes, list) else 0
    if not 1 <= count <= 8:
        raise block.fail("planes", "a list of 1 to 8 sizes")
    low, high = block.array("low", (3,)), block.array("high", (3,))
    step = block.number("step", 0)
    narrow = bool(((high - low) <= (_MAX_CODE + 0.5) * step).all())
    cells = np.empty((3, points), dtype=np.uint16 if narrow else np.uint32)
    start = 0
    raw = list(_decode_planes(block, body, count, points, decompressor))
    for codes in planes.join_sorted(raw, points):
        if narrow and int(codes.max()) >> 48:
            raise ClipError("a point lies outside the grid", where=block.where, hint=DAMAGED_HINT)
        morton.deinterleave(codes, cells[:, start : start + len(codes)])
        start += len(codes)
    if not narrow:
        return shared(dequantize_position(cells, low, high, step))
    return Quantized(shared(cells.T), low=low, high=high, step=np.full(3, step))


@dataclass(frozen=True)
class _Codes:
    """The checked parameters of a linear or logarithmic block."""

    block: Fields
    body: memoryview
    first: int
    components: int
    scale: str
    low: float
    high: float
    levels: int
    delta: bool = False
    color: bool = False

    @classmethod
    def of(cls, block: Fields, body: memoryview, components: int) -> _Codes:
        """components: of the attribute, all blocks together."""
        first = block.integer("first", 0, components - 1)
        count = block.integer("components", 1, components - first)
        low, high = block.number("low"), block.number("high")
        scale = block.text("scale")
        levels = block.integer("levels", 0, MAX_LOG_LEVELS if scale == "log" else MAX_LEVELS)
        if scale not in ("linear", "log") or not low <= high or (scale == "log" and low <= 0):
            raise block.fail("scale", "linear, or log with 0 < low <= high")
        if levels == 0:
            if len(body):
                raise block.fail("levels", "above 0 although the block has planes")
            return cls(block, body, first, count, "linear", low, low, 0)
        delta, color = block.flag("delta"), block.flag("color")
        if color and count % 3:
            raise block.fail("color", "for a multiple of three components")
        return cls(block, body, first, count, scale, low, high, levels, delta, color)

    @property
    def rows(self) -> slice:
        """Which components of the attribute it holds."""
        return slice(self.first, self.first + self.components)

    def decode(self, codes: np.ndarray, decompressor: Decompressor) -> None:
        """Write the codes (components, N) in place."""
        if self.levels == 0:
            codes[...] = 0
            return
        nbytes, points = planes.word_bytes(self.levels), codes.shape[1]
        count = self.components * nbytes
        raw = _decode_planes(self.block, self.body, count, points, decompressor)
        planes.join(raw, nbytes, codes, delta=self.delta, color=self.color)


def _decode_codes(
    blocks: Sequence[_Codes], components: int, points: int, decompressor: Decompressor
) -> Quantized | np.ndarray:
    """One attribute from its blocks: codes (N, components), or values of this shape, float32."""
    table = components == 1 and blocks[0].scale == "log"
    if any(b.levels > _MAX_CODE or (b.scale == "log" and not table) for b in blocks):
        return _decode_values(blocks, components, points, decompressor)
    nbytes = max((planes.word_bytes(b.levels) for b in blocks), default=1)
    codes = np.empty((components, points), dtype=np.uint8 if nbytes == 1 else np.uint16)
    low, high, step = np.zeros((3, components))
    missing = np.ones(components, dtype=bool)
    for b in blocks:
        b.decode(codes[b.rows], decompressor)
        missing[b.rows] = False
        low[b.rows], high[b.rows] = b.low, b.high
        step[b.rows] = (b.high - b.low) / max(b.levels, 1)
    codes[missing] = 0
    if table:
        return Quantized(shared(codes.T), table=log_table(b.low, b.high, b.levels))
    return Quantized(shared(codes.T), low=low, high=high, step=step)


def _decode_values(
    blocks: Sequence[_Codes], components: int, points: int, decompressor: Decompressor
) -> np.ndarray:
    """The same for codes that no renderer takes: values (N, components) float32."""
    values = np.zeros((points, components), dtype=np.float32)
    for b in blocks:
        codes = np.empty((b.components, points), dtype=np.uint32)
        b.decode(codes, decompressor)
        if b.scale == "log":
            table = log_table(b.low, b.high, b.levels)
            values[:, b.rows] = np.take(table, codes.T, mode="clip")
        else:
            values[:, b.rows] = dequantize_linear(codes.T, b.low, b.high, b.levels)
    return shared(values)


def shared(array: np.ndarray) -> np.ndarray:
    """The array, read-only from now on: readers hand it to everyone who asks."""
    array.setflags(write=False)
    return array
