"""Lossless coding of quantised points: the splat core's octree and predictive range coder.

Decoded integers are the same on every machine (`cuda/cpu/point_codec.cpp` has the model).
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_void_p
from dataclasses import dataclass

import numpy as np

from ..render.core_library import CComponent, check, library
from .core_stream import check_decoded, taken

MAX_CODE = (1 << 24) - 1
MAX_COMPONENTS = 64
MAX_CELL_BITS = 21


@dataclass(frozen=True)
class Component:
    """How the codes of one component are stored.

    spatial: as differences from the weighted mean of near points, else from a running mean.
    follows: an earlier component whose difference is taken off as well, -1 for none. set:
    components of one set (0..63) share their statistics.
    """

    spatial: bool
    follows: int
    set: int


def encode_points(
    morton: np.ndarray, codes: np.ndarray, bits: int, components: Sequence[Component]
) -> bytes:
    """morton: (N,) ascending uint64 of `bits` bits per axis. codes: (C, N), 0..MAX_CODE."""
    morton = np.ascontiguousarray(morton, dtype=np.uint64)
    codes = np.ascontiguousarray(codes, dtype=np.int32)
    if codes.shape != (len(components), len(morton)):
        raise ValueError(f"codes {codes.shape} for {len(components)} components")
    stream = c_void_p()
    check(
        library().peel4d_encode_points(
            morton.ctypes.data,
            len(morton),
            bits,
            codes.ctypes.data,
            _structs(components),
            len(components),
            byref(stream),
        )
    )
    return taken(stream)


def decode_points(
    data: bytes | memoryview, points: int, bits: int, components: Sequence[Component], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """The Morton codes (N,) uint64 and the codes (C, N) int32 of `points` points.

    Raises ClipError for a stream that no encoder has written, and MemoryError.
    """
    data = np.frombuffer(data, dtype=np.uint8)
    morton = np.empty(points, dtype=np.uint64)
    codes = np.empty((len(components), points), dtype=np.int32)
    result = library().peel4d_decode_points(
        data.ctypes.data,
        len(data),
        points,
        bits,
        _structs(components),
        len(components),
        morton.ctypes.data,
        codes.ctypes.data,
    )
    check_decoded(result, "points", where)
    return morton, codes


def _structs(components: Sequence[Component]):
    return (CComponent * len(components))(*((c.spatial, c.follows, c.set) for c in components))
