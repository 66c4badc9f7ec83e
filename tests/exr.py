"""A reader for the EXR files that Blender writes without compression."""

import struct
from pathlib import Path

import numpy as np


def parse_exr(path: Path) -> dict[str, np.ndarray]:
    """Channels of an uncompressed single-part scanline OpenEXR file, (H, W) float32, row 0 = top.

    The few bytes of the format that Blender writes with codec NONE:
    https://openexr.com/en/latest/OpenEXRFileLayout.html
    """
    data = Path(path).read_bytes()
    magic, version = struct.unpack_from("<II", data)
    assert magic == 20000630 and version & 0x1A00 == 0, "not a plain scanline file"
    at = 8
    attributes = {}
    while data[at]:
        name, at = _text(data, at)
        _kind, at = _text(data, at)
        (size,) = struct.unpack_from("<i", data, at)
        attributes[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    at += 1
    assert attributes["compression"] == b"\0"
    x0, y0, x1, y1 = struct.unpack("<4i", attributes["dataWindow"])
    width, height = x1 - x0 + 1, y1 - y0 + 1
    table, channels, position = attributes["channels"], [], 0
    while table[position]:
        name, position = _text(table, position)
        (kind,) = struct.unpack_from("<i", table, position)
        assert kind == 2, "expected 32-bit floats"
        channels.append(name)
        position += 16
    rows = np.empty((height, len(channels), width), np.float32)
    for offset in np.frombuffer(data, "<u8", height, at).tolist():
        y, size = struct.unpack_from("<ii", data, offset)
        assert size == rows[0].nbytes
        line = np.frombuffer(data, "<f4", rows[0].size, offset + 8)
        rows[y - y0] = line.reshape(rows[0].shape)
    return {name: rows[:, index] for index, name in enumerate(channels)}


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1
