"""One chunk: the points of one frame, decodable without any other part of the clip (decode.py).

    "P4DB" | header length, u32 little endian | header, JSON | byte planes, compressed, in order

The header lists the blocks of the chunk; docs/clip-format.md has the details.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import ClipError
from ..render.splats import Splats
from . import planes
from .clip import MAX_DECODED_BYTES, MAX_MAGNITUDE, MAX_POINTS
from .compression import Compressor
from .envelope import wrap
from .quantize import (
    MAX_LOG_LEVELS,
    Precision,
    level_count,
    position_grid,
    quantize_linear,
    quantize_log,
    quantize_position,
)
from .schema import point_nbytes

MAGIC = b"P4DB"


@dataclass(frozen=True, eq=False)
class Chunk:
    """An encoded chunk. points: N. bounds: (2, 3) of the positions, None without points.

    ranges: per attribute, the (lowest, highest) value. shares: finds `nbytes`, which may take as
    long as the encoding and is not always asked for.
    """

    data: bytes
    points: int
    sh_degree: int
    bounds: np.ndarray | None
    ranges: dict[str, tuple[float, float]]
    shares: Callable[[], dict[str, int]] = dict

    @cached_property
    def nbytes(self) -> dict[str, int]:
        """Per attribute, the compressed size."""
        return self.shares()


def encode_chunk(splats: Splats, precision: Precision, where: str) -> Chunk:
    """Quantise and compress one frame.

    Points that no renderer draws (radius <= 0 or density <= 0) are left out; the others are put
    into the order of the Morton curve. Raises ClipError for NaN, infinite or absurd values,
    density above 1 and more points than a reader accepts.
    """
    splats = visible(splats, where)
    if len(splats) == 0:
        return Chunk(_wrapped(0, "", [], []), 0, 0, None, {})
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
        data=_wrapped(len(splats), writer.compressor.method, writer.blocks, writer.payload),
        points=len(splats),
        sh_degree=splats.sh_degree,
        bounds=np.stack([low, high]),
        shares=lambda: writer.nbytes,
        ranges={
            "position": (float(low.min()), float(high.max())),
            "radius": (r_low, r_high),
            "density": (d_low, d_high),
            "sh": _range(sh),
        },
    )


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


def visible(splats: Splats, where: str) -> Splats:
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
    return splats if keep.all() else splats.select(keep)


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _wrapped(
    points: int, compression: str, blocks: list[dict[str, object]], payload: list[bytes]
) -> bytes:
    header = {"points": points, "compression": compression, "blocks": blocks}
    return wrap(MAGIC, header, payload)
