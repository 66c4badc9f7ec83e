"""One chunk: the points of one frame, decodable without any other part of the clip.

    "P4DB" | header length, u32 little endian | header, JSON | byte planes, compressed, in order

The header lists the blocks of the chunk; docs/clip-format.md has the details.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass

import numpy as np

from ..errors import ClipError
from ..render.splats import SH_COUNTS, Splats
from . import planes
from .clip import DAMAGED_HINT, MAX_DECODED_BYTES, MAX_MAGNITUDE, MAX_POINTS
from .compression import Compressor, Decompressor
from .fields import Fields, parse_object
from .quantize import (
    MAX_LEVELS,
    MAX_LOG_LEVELS,
    Precision,
    dequantize_linear,
    dequantize_log,
    dequantize_position,
    level_count,
    position_grid,
    quantize_linear,
    quantize_log,
    quantize_position,
)
from .schema import point_nbytes

MAGIC = b"P4DB"
_PREFIX = struct.Struct("<4sI")
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Chunk:
    """An encoded chunk. points: N. bounds: (2, 3) of the positions, None without points.

    nbytes, ranges: per attribute, the compressed size and the (lowest, highest) value.
    """

    data: bytes
    points: int
    sh_degree: int
    bounds: np.ndarray | None
    nbytes: dict[str, int]
    ranges: dict[str, tuple[float, float]]


def encode_chunk(splats: Splats, precision: Precision, where: str) -> Chunk:
    """Quantise and compress one frame.

    Points that no renderer draws (radius <= 0 or density <= 0) are left out; the others are put
    into the order of the Morton curve. Raises ClipError for NaN, infinite or absurd values,
    density above 1 and more points than a reader accepts.
    """
    splats = _visible(splats, where)
    if len(splats) == 0:
        return Chunk(_pack(0, "", [], []), 0, 0, None, {}, {})
    low, high, step = position_grid(splats.position, float(np.median(splats.radius)), precision)
    codes = quantize_position(splats.position, low, step)
    order = np.argsort(codes, kind="stable")

    writer = _BlockWriter()
    grid = {"low": low.tolist(), "high": high.tolist(), "step": step}
    writer.add("position", 0, 3, "morton", planes.split_sorted(codes[order]), grid)

    radius = splats.radius[order]
    r_low, r_high = _range(radius)
    levels = level_count(
        math.log(r_high) - math.log(r_low), math.log1p(precision.radius), MAX_LOG_LEVELS
    )
    codes = quantize_log(radius, r_low, r_high, levels)[None]
    writer.add_codes("radius", 0, "log", codes, r_low, r_high, levels)

    density = splats.density[order]
    d_low, d_high = _range(density)
    levels = level_count(d_high - d_low, precision.density)
    codes = quantize_linear(density, d_low, d_high, levels)[None]
    writer.add_codes("density", 0, "linear", codes, d_low, d_high, levels)

    sh = splats.sh[order].reshape(len(splats), -1)  # (N, 3 B), component 3 b + channel
    for band in range(splats.sh_degree + 1):
        first = 3 * band * band
        values = sh[:, first : first + 3 * (2 * band + 1)].T  # (C, N)
        s_low, s_high = _range(values)
        levels = level_count(s_high - s_low, precision.sh_step(band, splats.sh_degree))
        codes = quantize_linear(values, s_low, s_high, levels)
        writer.add_codes("sh", first, "linear", codes, s_low, s_high, levels)

    return Chunk(
        data=_pack(len(splats), writer.compressor.method, writer.blocks, writer.payload),
        points=len(splats),
        sh_degree=splats.sh_degree,
        bounds=np.stack([low, high]),
        nbytes=writer.nbytes,
        ranges={
            "position": (float(low.min()), float(high.max())),
            "radius": (r_low, r_high),
            "density": (d_low, d_high),
            "sh": _range(sh),
        },
    )


def decode_chunk(data: bytes, points: int, sh_degree: int, where: str) -> Splats:
    """The Splats in a chunk, which must hold `points` points.

    Bands up to `sh_degree` that the chunk does not have are zero. Blocks of attributes that this
    program does not know are skipped. Raises ClipError for anything that is not as specified.
    """
    header, payload = _unpack(data, where)
    if header.integer("points", 0, MAX_POINTS) != points:
        raise header.fail("points", f"the {points} that clip.json announces")
    blocks = header.mappings("blocks")
    if points == 0:
        return Splats.empty(sh_degree)
    decompressor = Decompressor(header.text("compression"), where)
    components = 3 * SH_COUNTS[sh_degree]
    sh = np.zeros((points, components), dtype=np.float32)
    position = radius = density = None
    offset, seen = 0, set()
    for block in blocks:
        nbytes = block.integer("bytes", 0, len(payload) - offset)
        body = payload[offset : offset + nbytes]
        offset += nbytes
        name = block.text("name")
        if (name, block.values.get("first")) in seen:
            raise block.fail("name", "a block of its own")
        seen.add((name, block.values.get("first")))
        if name == "position":
            position = _decode_position(block, body, points, decompressor)
        elif name == "radius":
            radius = _decode_codes(block, body, points, 1, decompressor)[0]
        elif name == "density":
            density = _decode_codes(block, body, points, 1, decompressor)[0]
        elif name == "sh":
            count = block.integer("components", 1, components)
            first = block.integer("first", 0, components - count)
            values = _decode_codes(block, body, points, count, decompressor)
            sh[:, first : first + count] = values.T
    if offset != len(payload):
        raise ClipError("bytes are left over", where=where, hint=DAMAGED_HINT)
    for name, array in (("position", position), ("radius", radius), ("density", density)):
        if array is None:
            raise ClipError(f"has no block '{name}'", where=where, hint=DAMAGED_HINT)
    return Splats(position, radius, density, sh.reshape(points, -1, 3))


class _BlockWriter:
    """Collects the blocks of one chunk and their compressed planes."""

    def __init__(self) -> None:
        self.compressor = Compressor()
        self.blocks: list[dict[str, object]] = []
        self.payload: list[bytes] = []
        self.nbytes: dict[str, int] = {}

    def add(
        self,
        name: str,
        first: int,
        components: int,
        scale: str,
        raw: list[bytes],
        parameters: dict[str, object],
    ) -> None:
        compressed = [self.compressor.compress(plane) for plane in raw]
        self._append(name, first, components, scale, compressed, parameters)

    def add_codes(
        self,
        name: str,
        first: int,
        scale: str,
        codes: np.ndarray,
        low: float,
        high: float,
        levels: int,
    ) -> None:
        """Add codes (C, N) in whichever of the reversible forms compresses best."""
        parameters: dict[str, object] = {"low": low, "high": high, "levels": levels}
        best: list[bytes] = []
        if levels:  # a constant needs no planes
            nbytes = planes.word_bytes(levels)
            forms = [(delta, color) for delta in (False, True) for color in (False, True)]
            sizes = []
            for delta, color in forms if len(codes) % 3 == 0 else forms[::2]:
                raw = planes.split(codes, nbytes, delta=delta, color=color)
                compressed = [self.compressor.compress(plane) for plane in raw]
                sizes.append(sum(map(len, compressed)))
                if sizes[-1] == min(sizes):
                    best = compressed
                    parameters.update(delta=delta, color=color)
        self._append(name, first, len(codes), scale, best, parameters)

    def _append(
        self,
        name: str,
        first: int,
        components: int,
        scale: str,
        compressed: list[bytes],
        parameters: dict[str, object],
    ) -> None:
        sizes = [len(plane) for plane in compressed]
        self.blocks.append(
            {
                "name": name,
                "first": first,
                "components": components,
                "scale": scale,
                **parameters,
                "planes": sizes,
                "bytes": sum(sizes),
            }
        )
        self.payload += compressed
        self.nbytes[name] = self.nbytes.get(name, 0) + sum(sizes)


def _visible(splats: Splats, where: str) -> Splats:
    """The points that can be seen, after everything a decoder could not promise is refused."""
    for name in ("position", "radius", "density", "sh"):
        array = getattr(splats, name)
        good = np.abs(array) <= MAX_MAGNITUDE  # False for NaN
        if not good.all():
            index = int(np.argwhere(~good)[0][0])
            raise ClipError(
                f"{name} of point {index} is {array[index].ravel()[:3].tolist()}, "
                "which is not a finite, sensible number",
                where=where,
                hint="The model that made these points has diverged; nothing was written",
            )
    if len(splats) and splats.density.max() > 1:
        index = int(splats.density.argmax())
        raise ClipError(
            f"density of point {index} is {splats.density[index]:g}, above 1", where=where
        )
    if len(splats) > MAX_POINTS or len(splats) * point_nbytes(3) > MAX_DECODED_BYTES:
        raise ClipError(
            f"{len(splats)} points are more than a clip can hold",
            where=where,
            hint="Use a coarser point spacing",
        )
    keep = (splats.radius > 0) & (splats.density > 0)
    if keep.all():
        return splats
    return Splats(splats.position[keep], splats.radius[keep], splats.density[keep], splats.sh[keep])


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _pack(
    points: int, compression: str, blocks: list[dict[str, object]], payload: list[bytes]
) -> bytes:
    header = {"points": points, "compression": compression, "blocks": blocks}
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode("ascii")
    return b"".join([_PREFIX.pack(MAGIC, len(text)), text, *payload])


def _unpack(data: bytes, where: str) -> tuple[Fields, memoryview]:
    if len(data) < _PREFIX.size or data[:4] != MAGIC:
        raise ClipError("not a chunk of a baked clip", where=where, hint=DAMAGED_HINT)
    length = _PREFIX.unpack_from(data)[1]
    end = _PREFIX.size + length
    if length > _MAX_HEADER_BYTES or end > len(data):
        raise ClipError("its header does not fit", where=where, hint=DAMAGED_HINT)
    return parse_object(data[_PREFIX.size : end], where), memoryview(data)[end:]


def _decode_planes(
    block: Fields, body: memoryview, count: int, points: int, decompressor: Decompressor
) -> list[bytes]:
    """The `count` planes of a block, each of one byte per point."""
    sizes = block.integers("planes", count, 0, len(body))
    if sum(sizes) != len(body):
        raise block.fail("planes", "as long as the block")
    result, offset = [], 0
    for size in sizes:
        result.append(decompressor.decompress(body[offset : offset + size], points))
        offset += size
    return result


def _decode_position(
    block: Fields, body: memoryview, points: int, decompressor: Decompressor
) -> np.ndarray:
    if block.text("scale") != "morton":
        raise block.fail("scale", "morton")
    sizes = block.values.get("planes")
    count = len(sizes) if isinstance(sizes, list) else 0
    if not 1 <= count <= 8:
        raise block.fail("planes", "a list of 1 to 8 sizes")
    low, high = block.array("low", (3,)), block.array("high", (3,))
    step = block.number("step", 0)
    codes = planes.join_sorted(_decode_planes(block, body, count, points, decompressor), points)
    return dequantize_position(codes, low, high, step)


def _decode_codes(
    block: Fields, body: memoryview, points: int, components: int, decompressor: Decompressor
) -> np.ndarray:
    """A linear or logarithmic block -> values (C, N) float32."""
    low, high = block.number("low"), block.number("high")
    scale = block.text("scale")
    levels = block.integer("levels", 0, MAX_LOG_LEVELS if scale == "log" else MAX_LEVELS)
    if scale not in ("linear", "log") or not low <= high or (scale == "log" and low <= 0):
        raise block.fail("scale", "linear, or log with 0 < low <= high")
    if levels == 0:
        if len(body):
            raise block.fail("levels", "above 0 although the block has planes")
        return np.full((components, points), low, dtype=np.float32)
    delta, color = block.flag("delta"), block.flag("color")
    if color and components % 3:
        raise block.fail("color", "for a multiple of three components")
    nbytes = planes.word_bytes(levels)
    raw = _decode_planes(block, body, components * nbytes, points, decompressor)
    codes = planes.join(raw, points, nbytes, delta=delta, color=color)
    dequantize = dequantize_log if scale == "log" else dequantize_linear
    return dequantize(codes, low, high, levels)
