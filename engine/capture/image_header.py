"""What the header of a PNG or JPEG says without decoding: size, alpha, whether it was cut off."""

from __future__ import annotations

import struct
from pathlib import Path

# Start-of-frame markers of JPEG: C0..CF but DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_HEADER_BYTES = 1 << 16


def _jpeg_markers(data: bytes):
    """(marker, offset of the segment's length field) up to the first start of scan."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        yield marker, at + 2
        if marker == _START_OF_SCAN:
            return
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def size_in_header(data: bytes) -> tuple[int, int] | None:
    """(width, height) that the beginning of a PNG or JPEG file states; None without."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        return struct.unpack_from(">II", data, 16)
    if data[:2] == b"\xff\xd8":
        for marker, at in _jpeg_markers(data):
            if marker in _START_OF_FRAME and at + 7 <= len(data):
                height, width = struct.unpack_from(">HH", data, at + 3)
                return width, height
    return None


def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of a PNG or JPEG without decoding it; None where the header has none.

    EXIF orientation is ignored, as calibration tools ignore it. Raises OSError.
    """
    with path.open("rb") as file:
        data = file.read(_HEADER_BYTES)
        size = size_in_header(data)
        # A large thumbnail or colour profile may push the JPEG's frame header further back.
        if size is None and data[:2] == b"\xff\xd8":
            size = size_in_header(data + file.read())
    return size


def has_alpha(path: Path) -> bool:
    """True for a PNG with an alpha channel (colour types 4 and 6). Raises OSError."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 26 and head[25] in (4, 6)


def is_truncated(data: bytes) -> bool:
    """True where a PNG or JPEG file ends before its picture does.

    JPEG decoders fill the rest with grey and report nothing, so the end mark is looked for here:
    after the start of scan (an EXIF thumbnail before it has an end mark of its own) the bytes
    FF D9 occur nowhere else, since a data byte FF is always followed by 00.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return data.rfind(b"IEND") < 0
    if data[:2] == b"\xff\xd8":
        for marker, at in _jpeg_markers(data):
            if marker == _START_OF_SCAN:
                return data.find(b"\xff\xd9", at) < 0
        return True
    return False
