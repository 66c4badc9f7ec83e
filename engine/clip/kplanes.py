"""The codec "kplanes": a fragment's planes as float16, compressed; what others are measured by.

"P4DK" | header length, u32 little endian | header, JSON | planes, compressed | heads, compressed
"""

from __future__ import annotations

import numpy as np

from ..errors import ClipError
from .clip import DAMAGED_HINT
from .compression import Compressor, Decompressor
from .envelope import unwrap, wrap
from .field_shape import FieldShape, shape_header
from .fragment import FieldCodec, Member
from .plane_field import PlaneField

NAME = "kplanes"
MAGIC = b"P4DK"


def encode_kplanes(field: PlaneField) -> Member:
    """A fragment as it is, rounded to float16. Raises ClipError where float16 cannot hold it."""
    compressor = Compressor()
    planes = _half([plane for planes in field.levels for plane in planes])
    heads = _half(field.layers)
    payload = [compressor.compress(planes), compressor.compress(heads)]
    header = {
        **shape_header(field),
        "compression": compressor.method,
        "bytes": [len(part) for part in payload],
    }
    data = wrap(MAGIC, header, payload)
    return Member(data, {"planes": len(payload[0]), "heads": len(payload[1])})


def decode_kplanes(data: bytes, base: object, where: str) -> PlaneField:
    """The field in a fragment. Raises ClipError."""
    header, payload = unwrap(data, MAGIC, NAME, where)
    shape = FieldShape(header)
    sizes = header.integers("bytes", 2, 0, len(payload))
    if sum(sizes) != len(payload):
        raise header.fail("bytes", "as long as the fragment")
    decompressor = Decompressor(header.text("compression"), where)
    parts = []
    for part, count in zip(
        (payload[: sizes[0]], payload[sizes[0] :]),
        (shape.plane_values, shape.head_values),
        strict=True,
    ):
        values = np.frombuffer(decompressor.decompress(part, 2 * count), "<f2").astype(np.float32)
        if not np.isfinite(values).all():
            raise ClipError("a number is not finite", where=where, hint=DAMAGED_HINT)
        parts.append(values)
    return shape.field(*parts)


CODEC = FieldCodec(decode_kplanes)


def _half(arrays) -> bytes:
    flat = np.concatenate([array.ravel() for array in arrays])
    if not np.abs(flat).max() < 65504:
        raise ClipError("the field has numbers beyond float16", hint="Its training has diverged")
    return flat.astype("<f2").tobytes()
