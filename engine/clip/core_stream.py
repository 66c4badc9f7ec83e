"""Streams of the splat core: taken out of it, and what it says of damaged ones."""

from __future__ import annotations

from ctypes import c_void_p, string_at

from ..errors import ClipError
from ..render.core_library import check, library
from .clip import DAMAGED_HINT

#: Return codes of the core (peel4d.h).
INVALID_ARGUMENT, OUT_OF_MEMORY, DAMAGED = 1, 2, 5


def taken(stream: c_void_p) -> bytes:
    """The bytes of a stream of the core, which is freed."""
    core = library()
    try:
        return string_at(core.peel4d_stream_data(stream), core.peel4d_stream_bytes(stream))
    finally:
        core.peel4d_stream_free(stream)


def check_decoded(result: int, what: str, where: str) -> None:
    """Raises ClipError for a stream that no encoder has written, MemoryError, CoreError. what: the
    coded things."""
    if result == DAMAGED:
        raise ClipError(f"the coded {what} are damaged", where=where, hint=DAMAGED_HINT)
    if result == OUT_OF_MEMORY:
        raise MemoryError
    check(result)
