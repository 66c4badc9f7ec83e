"""Lossless compression of byte planes; the decoder never produces more than it was told to.

zstd through the `zstandard` module, which Blender ships; zlib where a writer does not have it.
"""

from __future__ import annotations

import zlib

from ..errors import ClipError
from .clip import DAMAGED_HINT

try:
    import zstandard
except ImportError:  # a Python without it still writes clips and reads zlib ones
    zstandard = None

# Planes are either near-random or very regular: levels above 3 gain < 1 % and cost 10 x the time.
_ZSTD_LEVEL = 3
_ZLIB_LEVEL = 6


class Compressor:
    """Compresses planes with the best method this Python has, which `method` names."""

    def __init__(self) -> None:
        self.method = "zlib" if zstandard is None else "zstd"
        self._zstd = None if zstandard is None else zstandard.ZstdCompressor(level=_ZSTD_LEVEL)

    def compress(self, data: bytes) -> bytes:
        if self._zstd is None:
            return zlib.compress(data, _ZLIB_LEVEL)
        return self._zstd.compress(data)


class Decompressor:
    """Decompresses planes of known size. One object per thread."""

    def __init__(self, method: str, where: str) -> None:
        """Raises ClipError when `method` is unknown or its module is missing."""
        self.where = where
        self._zstd = None
        if method == "zstd":
            if zstandard is None:
                raise ClipError(
                    "the clip is compressed with zstd and this Python has no 'zstandard' module",
                    where=where,
                    hint="Install it with: pip install zstandard",
                )
            self._zstd = zstandard.ZstdDecompressor()
        elif method != "zlib":
            raise ClipError(
                f"compression {method!r} is not known to this program (zstd, zlib)",
                where=where,
                hint="Update Peel4D to open it",
            )

    def decompress(self, data: bytes, size: int) -> bytes:
        """Exactly `size` bytes. Raises ClipError for data that hold more, less or nothing."""
        result = self._unzstd(data, size) if self._zstd else self._unzlib(data, size)
        if len(result) != size:
            raise self._damaged(f"it decodes to {len(result)} bytes instead of {size}")
        return result

    def _unzstd(self, data: bytes, size: int) -> bytes:
        try:
            # The module allocates what the frame claims, whatever max_output_size says.
            claimed = zstandard.frame_content_size(data)
            if claimed != size:
                raise self._damaged(f"it claims {claimed} bytes instead of {size}")
            return self._zstd.decompress(data, max_output_size=size)
        except zstandard.ZstdError as error:
            raise self._damaged(str(error)) from error

    def _unzlib(self, data: bytes, size: int) -> bytes:
        stream = zlib.decompressobj()
        try:
            return stream.decompress(data, size + 1)
        except zlib.error as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, reason: str) -> ClipError:
        return ClipError(f"cannot decompress ({reason})", where=self.where, hint=DAMAGED_HINT)
