"""What the chunks of all codecs have around them.

four bytes that name the codec | header length, u32 little endian | header, JSON | payload
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping

from ..errors import ClipError
from .clip import DAMAGED_HINT
from .fields import Fields, parse_object

_PREFIX = struct.Struct("<4sI")
_MAX_HEADER_BYTES = 1 << 20


def wrap(magic: bytes, header: Mapping[str, object], payload: Iterable[bytes]) -> bytes:
    """A chunk: magic, header and the parts of the payload, one after the other."""
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode("ascii")
    return b"".join([_PREFIX.pack(magic, len(text)), text, *payload])


def unwrap(data: bytes, magic: bytes, codec: str, where: str) -> tuple[Fields, memoryview]:
    """The header of a chunk and its payload. Raises ClipError for what `wrap` has not made."""
    if len(data) < _PREFIX.size or data[:4] != magic:
        raise ClipError(f"not a chunk of a {codec} clip", where=where, hint=DAMAGED_HINT)
    length = _PREFIX.unpack_from(data)[1]
    end = _PREFIX.size + length
    if length > _MAX_HEADER_BYTES or end > len(data):
        raise ClipError("its header does not fit", where=where, hint=DAMAGED_HINT)
    return parse_object(data[_PREFIX.size : end], where), memoryview(data)[end:]
