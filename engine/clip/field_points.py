"""A frame of a clip with fragments: positions and a colour per point; a field has the rest.

"P4DF" | header length, u32 little endian | header, JSON | the points' stream (`point_codec`)
"""

from __future__ import annotations

import numpy as np

from ..errors import ClipError
from ..render.splats import SH_COUNTS, PackedSplats, Splats
from .chunk import Chunk, visible
from .clip import DAMAGED_HINT, MAX_MAGNITUDE, MAX_POINTS
from .decode import shared
from .envelope import unwrap, wrap
from .fields import Fields
from .fragment import FieldFragment
from .lattice import (
    Grid,
    Lattice,
    grid_positions,
    plain_positions,
    read_place,
    read_scale,
    scale_ends,
)
from .point_codec import MAX_CELL_BITS, Component, decode_points, encode_points
from .predictive import Steps, position_step
from .quantize import SH_PEAK

MAGIC = b"P4DF"
#: Green, then red and blue by what green leaves; then the radius, where points have their own.
_COMPONENTS = (Component(True, -1, 0), Component(True, 0, 1), Component(True, 0, 1))
_RADIUS = Component(False, -1, 2)
_STORED = [1, 0, 2]
#: Of a radius by its field, as a logarithm.
_MAX_FACTOR = 20.0


def encode_field_points(
    splats: Splats,
    field: FieldFragment,
    step: int,
    steps: Steps,
    where: str,
    *,
    own_radius: bool = False,
) -> Chunk:
    """Quantise and code what the field does not know of a frame.

    splats: the points as they should be drawn. field: as decoded. step: the frame in its fragment.
    The colour that is stored is what the field's constant coefficient lacks where the point is
    decoded, so whatever the field's own coding has changed of it comes out right again. own_radius:
    the same with the radius, as a factor. Raises ClipError as `encode_chunk` does.
    """
    splats = visible(splats, where)
    count = len(splats)
    if count == 0:
        return Chunk(wrap(MAGIC, {"points": 0}, []), 0, 0, None, {})
    grid = Grid.of(splats.position, position_step(splats, steps))
    radius, density, sh = checked(field, step, grid.positions, where)
    wanted = splats.sh[grid.order, 0].astype(np.float64) - sh[:, 0]
    color = Lattice.of(wanted.T, steps.color / SH_PEAK[0])
    header = {
        "points": count,
        "bits": grid.bits,
        "position": grid.header,
        "color": color.header,
    }
    fields = Fields(header, where)  # what no reader takes is not written
    read_place(fields, grid.bits)
    read_scale(fields, "color")
    rows, components = color.codes[_STORED], _COMPONENTS
    if own_radius:
        factor = np.log(splats.radius[grid.order].astype(np.float64) / radius)
        factors = Lattice.of(factor[None], steps.radius)
        header["radius"] = factors.header
        _read_factors(Fields(header, where))
        rows, components = np.concatenate([rows, factors.codes]), (*_COMPONENTS, _RADIUS)
    stream = encode_points(grid.codes, rows, grid.bits, components)

    def shares() -> dict[str, int]:
        """What is missing without the parts of the stream after an attribute."""
        positions = len(encode_points(grid.codes, rows[:0], grid.bits, ()))
        radii = len(stream) - len(encode_points(grid.codes, rows[:3], grid.bits, _COMPONENTS))
        colors = len(stream) - positions - radii
        return {"position": positions, "radius": radii, "density": 0, "sh": colors}

    sh = sh.copy()
    sh[:, 0] += wanted
    return Chunk(
        data=wrap(MAGIC, header, [stream]),
        points=count,
        sh_degree=SH_COUNTS.index(sh.shape[1]),
        bounds=grid.bounds,
        shares=shares,
        ranges={
            "position": (float(grid.bounds.min()), float(grid.bounds.max())),
            "radius": (float(radius.min()), float(radius.max())),
            "density": (float(density.min()), float(density.max())),
            "sh": (float(sh.min()), float(sh.max())),
        },
    )


def decode_field_points(
    data: bytes, field: FieldFragment, step: int, points: int, sh_degree: int, where: str
) -> PackedSplats:
    """The points of a frame: its own numbers, and what the field says at their positions.

    The position is Quantized as in other codecs, the rest are plain numbers. Raises ClipError.
    """
    fields, stream = unwrap(data, MAGIC, "field", where)
    if fields.integer("points", 0, MAX_POINTS) != points:
        raise fields.fail("points", f"the {points} that clip.json announces")
    if points == 0:
        empty = Splats.empty(sh_degree)
        return PackedSplats(empty.position, empty.radius, empty.density, empty.sh)
    bits = fields.integer("bits", 1, MAX_CELL_BITS)
    place = read_place(fields, bits)
    scale, offset, levels = read_scale(fields, "color")
    factors = _read_factors(fields) if "radius" in fields.values else None
    components = _COMPONENTS if factors is None else (*_COMPONENTS, _RADIUS)
    codes, rows = decode_points(stream, points, bits, components, where)
    if rows[:3].max() > levels or (factors is not None and rows[3].max() > factors[2]):
        raise ClipError("a code is beyond its scale", where=where, hint=DAMAGED_HINT)
    position = grid_positions(codes, bits, place)
    radius, density, known = checked(field, step, plain_positions(position), where)
    count = SH_COUNTS[sh_degree]
    if known.shape[1] > count:
        raise ClipError(
            f"the field has {known.shape[1]} SH coefficients, the clip {count}",
            where=where,
            hint=DAMAGED_HINT,
        )
    sh = np.zeros((points, count, 3), dtype=np.float32)
    sh[:, : known.shape[1]] = known
    sh[:, 0] += ((rows[_STORED].T + offset) * scale).astype(np.float32)
    if factors is not None:
        radius = (radius * np.exp((rows[3] + factors[1]) * factors[0])).astype(np.float32)
    return PackedSplats(position, shared(radius), shared(density), shared(sh))


def _read_factors(fields: Fields) -> tuple[float, ...]:
    """The lattice of the radii's logarithms. Raises ClipError for factors that nobody needs."""
    scale = read_scale(fields, "radius")
    if max(map(abs, scale_ends(scale)[:2])) > _MAX_FACTOR:
        raise fields.fail("radius", "a lattice of logarithms")
    return scale


def checked(field: FieldFragment, step: int, position: np.ndarray, where: str):
    """What the field says, if a renderer can draw it. Raises ClipError."""
    radius, density, sh = field.evaluate(step, position)
    good = (
        all(np.abs(array).max(initial=0) <= MAX_MAGNITUDE for array in (radius, density, sh))
        and radius.min(initial=1) > 0
        and density.min(initial=1) > 0
        and density.max(initial=0) <= 1
        and sh.shape[1] in SH_COUNTS
    )
    if not good:
        raise ClipError("the field gives no points", where=where, hint=DAMAGED_HINT)
    return radius, density, sh
