"""Headers of chunks, changed as only a damaged or hostile file would have them."""

from __future__ import annotations

import json
import struct


def with_header(data: bytes, change) -> bytes:
    """A chunk whose JSON header went through `change` (a function that edits it in place)."""
    length = struct.unpack_from("<I", data, 4)[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return data[:4] + struct.pack("<I", len(text)) + text + data[8 + length :]
