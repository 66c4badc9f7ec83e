"""The codec "predictive": as few bits as a frame needs, still decodable without any other frame.

Attributes are rounded to lattices through zero, as coarse as pictures allow, and coded without loss
(`point_codec`). Frames do not predict each other: points of frames that were trained apart have
nothing in common but the surface, and the last frame's colours tell less about a point than its
neighbours in its own frame do (docs/clip-format.md has the measurement).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..errors import ClipError
from ..render.splats import SH_COUNTS, PackedSplats, Quantized, Splats
from .chunk import Chunk, visible
from .clip import DAMAGED_HINT, MAX_POINTS
from .decode import shared
from .envelope import unwrap, wrap
from .fields import Fields
from .lattice import (
    LOG_LIMIT,
    Grid,
    Lattice,
    grid_positions,
    read_place,
    read_scale,
    rounded_step,
    scale_ends,
    word,
)
from .point_codec import MAX_CELL_BITS, Component, decode_points, encode_points
from .quantize import SH_PEAK, log_table

CODEC = "predictive"
MAGIC = b"P4DP"


@dataclass(frozen=True)
class Steps:
    """Distances of the lattices, and what is not worth its bits.

    position: in median radii of the frame. radius: relative. density: absolute. color: of the
    constant SH band, absolute in the colour. shading: of every band above, absolute in the colour.
    dead_zone: shading is rounded towards zero by this share of a step.
    """

    position: float = 1 / 14
    radius: float = 0.06
    density: float = 1 / 12
    color: float = 1 / 64
    shading: float = 1 / 56
    dead_zone: float = 0.1

    def coefficient(self, band: int, degree: int) -> float:
        """Of the SH coefficients of a band, of points of a degree."""
        color = self.shading / math.sqrt(degree) if band else self.color
        return color / SH_PEAK[band]

    def scaled(self, factor: float) -> Steps:
        """All steps longer by a factor: the one number that rate and quality depend on."""
        return replace(
            self,
            position=self.position * factor,
            radius=self.radius * factor,
            density=min(self.density * factor, 0.5),
            color=self.color * factor,
            shading=self.shading * factor,
        )


#: Static points are stored once, and have texture as fine as the plates: they may cost more.
STATIC_STEPS = Steps(position=1 / 24, radius=0.05, density=1 / 16, color=1 / 128)


def position_step(splats: Splats, steps: Steps) -> float:
    """Width of the grid's cells, world units, for points of these radii; splats: at least one."""
    return rounded_step(steps.position * float(np.median(splats.radius)))


def encode_predictive(
    splats: Splats, steps: Steps, where: str, *, cell: float | None = None
) -> Chunk:
    """Quantise and code one frame. cell: width of the grid's cells, instead of `position_step`.

    Raises ClipError as `encode_chunk` does."""
    splats = visible(splats, where)
    count = len(splats)
    if count == 0:
        return Chunk(wrap(MAGIC, {"points": 0}, []), 0, 0, None, {})
    grid = Grid.of(
        splats.position, position_step(splats, steps) if cell is None else rounded_step(cell)
    )
    order, codes, bits = grid.order, grid.codes, grid.bits

    logarithm = np.log(splats.radius[order].astype(np.float64))[None]
    radius = Lattice.of(np.clip(logarithm, -LOG_LIMIT, LOG_LIMIT), steps.radius)
    # Half a step off zero: no density becomes nothing.
    half = 0.5 * rounded_step(steps.density)
    density = Lattice.of(splats.density[order].astype(np.float64)[None] - half, steps.density)
    sh = splats.sh[order].reshape(count, -1).T
    bands = []
    for band in range(splats.sh_degree + 1):
        rows = sh[3 * band**2 : 3 * (band + 1) ** 2]
        dead_zone = steps.dead_zone if band else 0.0
        bands.append(Lattice.of(rows, steps.coefficient(band, splats.sh_degree), dead_zone))
    header = {
        "points": count,
        "bits": bits,
        "position": grid.header,
        "radius": radius.header,
        "density": density.header,
        "sh": [band.header for band in bands],
    }
    _Header.of(Fields(header, where), splats.sh_degree)  # what no reader takes is not written
    rows = np.concatenate([radius.codes, density.codes, *(band.codes for band in bands)])
    rows = rows[_stored_order(len(bands))]
    components = _components(len(bands))
    stream = encode_points(codes, rows, bits, components)
    bounds = grid.bounds
    return Chunk(
        data=wrap(MAGIC, header, [stream]),
        points=count,
        sh_degree=splats.sh_degree,
        bounds=bounds,
        shares=partial(_shares, codes, rows, bits, components, len(stream)),
        ranges={
            "position": (float(bounds.min()), float(bounds.max())),
            "radius": (float(splats.radius.min()), float(splats.radius.max())),
            "density": (float(splats.density.min()), float(splats.density.max())),
            "sh": (float(sh.min()), float(sh.max())),
        },
    )


def decode_predictive(data: bytes, points: int, sh_degree: int, where: str) -> PackedSplats:
    """The points in a chunk, as `decode.decode_packed` gives those of a baked one."""
    fields, stream = unwrap(data, MAGIC, CODEC, where)
    if fields.integer("points", 0, MAX_POINTS) != points:
        raise fields.fail("points", f"the {points} that clip.json announces")
    if points == 0:
        empty = Splats.empty(sh_degree)
        return PackedSplats(empty.position, empty.radius, empty.density, empty.sh)
    header = _Header.of(fields, sh_degree)
    radius, density, scales = header.radius, header.density, header.bands
    codes, rows = decode_points(stream, points, header.bits, _components(len(scales)), where)

    order = _stored_order(len(scales))
    highest = np.empty(len(rows))
    highest[0], highest[1] = radius[2], density[2]
    for band, scale in enumerate(scales):
        highest[2 + 3 * band**2 : 2 + 3 * (band + 1) ** 2] = scale[2]
    if (rows.max(axis=1) > highest[order]).any():
        raise ClipError("a code is beyond its scale", where=where, hint=DAMAGED_HINT)

    total = 3 * SH_COUNTS[sh_degree]
    sh = np.zeros((total, points), dtype=word(max(scale[2] for scale in scales)))
    sh[order[2:] - 2] = rows[2:]
    low, high, step = np.zeros((3, total))
    for band, scale in enumerate(scales):
        own = slice(3 * band**2, 3 * (band + 1) ** 2)
        low[own], high[own], step[own] = scale_ends(scale)
    r_low, r_high = (math.exp(edge) for edge in scale_ends(radius)[:2])
    table = log_table(r_low, r_high, int(radius[2]))
    d_low, d_high, d_step = scale_ends(density)
    d_low, d_high = d_low + 0.5 * d_step, min(d_high + 0.5 * d_step, 1.0)
    return PackedSplats(
        grid_positions(codes, header.bits, header.place),
        Quantized(shared(rows[0].astype(word(radius[2]))[:, None]), table=table),
        Quantized(
            shared(rows[1].astype(word(density[2]))[:, None]),
            low=np.array([d_low]),
            high=np.array([d_high]),
            step=np.array([d_step]),
        ),
        Quantized(shared(sh.T), low=low, high=high, step=step),
    )


@dataclass(frozen=True, eq=False)
class _Header:
    """The checked header of a chunk with points.

    place: (4,) step of the grid and the lowest cell, in steps. radius, density, bands: lattices.
    """

    bits: int
    place: np.ndarray
    radius: tuple[float, ...]
    density: tuple[float, ...]
    bands: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, fields: Fields, sh_degree: int) -> _Header:
        bits = fields.integer("bits", 1, MAX_CELL_BITS)
        place = read_place(fields, bits)
        radius = read_scale(fields, "radius")
        if max(map(abs, scale_ends(radius)[:2])) > LOG_LIMIT + radius[0]:
            raise fields.fail("radius", "a lattice of logarithms")
        density = read_scale(fields, "density")
        if density[1] < 0:
            raise fields.fail("density", "above zero")
        bands = fields.values.get("sh")
        if not isinstance(bands, list) or not 1 <= len(bands) <= sh_degree + 1:
            raise fields.fail("sh", f"a list of 1 to {sh_degree + 1} bands")
        scales = (read_scale(Fields({"sh": band}, fields.where), "sh") for band in bands)
        return cls(bits, place, radius, density, tuple(scales))


def _components(bands: int) -> tuple[Component, ...]:
    """Radius, density, and of every SH function green, red and blue, in the order of the stream."""
    result = [Component(False, -1, 0), Component(False, -1, 1)]
    for function in range(bands**2):
        green, constant = len(result), function == 0
        first = 2 if constant else 4
        result.append(Component(constant, -1, first))
        result += [Component(constant, green, first + 1)] * 2
    return tuple(result)


def _stored_order(bands: int) -> np.ndarray:
    """Natural component (radius, density, 3 b + channel) of every one in the stream."""
    order = [0, 1]
    for function in range(bands**2):
        order += [2 + 3 * function + channel for channel in (1, 0, 2)]
    return np.array(order)


def _shares(
    codes: np.ndarray, rows: np.ndarray, bits: int, components: Sequence[Component], total: int
) -> dict[str, int]:
    """What each attribute takes of the stream: what is missing without those after it."""
    ends = [len(encode_points(codes, rows[:n], bits, components[:n])) for n in (0, 1, 2)]
    sizes = (ends[0], ends[1] - ends[0], ends[2] - ends[1], total - ends[2])
    return dict(zip(("position", "radius", "density", "sh"), sizes, strict=True))
