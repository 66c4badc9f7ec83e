"""The kernels' arguments (cuda/gpu/arguments.h) and the launches that make a frame."""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_double, c_float, c_int32, c_int64, c_uint32, c_uint64, c_void_p

from .core_library import library

TILE = 16  # samples along a side
TILE_THREADS = 256
LARGE_THREADS = 1024
WARP = 32
WARPS_PER_TILE = 8
PARTIALS = 9  # sums per point that the backward pass gathers
GAUSSIAN_SUMS = 8  # the same of a two-dimensional Gaussian, in each of its tiles
MOST_ORDERS = 6  # of a group's polynomials
LAYER_BYTES = 8
RECORD_BYTES = 16
SPLAT_BYTES = 48
ENTRY_BYTES = 8
TRIANGLE_ENTRY_BYTES = 4
SCREEN_TRIANGLE_BYTES = 3 * 3 * 8 + 3 * 8 + 8
CLIP_ID_BYTES = 8
SHARED_LIMIT = 48 << 10  # of a block, on every GPU without asking for more


class State(ctypes.Structure):
    _fields_ = [
        ("overlaps", c_uint64),
        ("triangle_overlaps", c_uint64),
        ("large_tiles", c_uint32),
        ("unused", c_uint32),
    ]


class Lists(ctypes.Structure):
    _fields_ = [
        ("counts", c_void_p),
        ("starts", c_void_p),
        ("cursors", c_void_p),
        ("capacity", c_uint64),
    ]


class Frame(ctypes.Structure):
    _fields_ = [
        ("width", c_int32),
        ("height", c_int32),
        ("tiles_x", c_int32),
        ("tiles_y", c_int32),
        ("samples", c_int32),
        ("layers", c_int32),
        ("min_transmittance", c_float),
        ("clip_count", c_int32),
        ("tile_begin", c_uint32),
        ("tile_end", c_uint32),
        ("point_count", c_uint32),
        ("keep", c_int32),
        ("state", c_void_p),
        ("records", c_void_p),
        ("splats", c_void_p),
        ("clip_ids", c_void_p),
        ("lists", Lists),
        ("entries", c_void_p),
        ("spare", c_void_p),
        ("large_tiles", c_void_p),
        ("rgba", c_void_p),
        ("depth", c_void_p),
        ("surface", c_void_p),
        ("surface_id", c_void_p),
        ("layer_ids", c_void_p),
    ]


class FrameArguments(ctypes.Structure):
    _fields_ = [("frame", Frame)]


class BackwardTilesArguments(ctypes.Structure):
    _fields_ = [("frame", Frame), ("d_rgba", c_void_p), ("d_depth", c_void_p), ("sums", c_void_p)]


class GaussianArguments(ctypes.Structure):
    _fields_ = [
        ("frame", Frame),
        ("position", c_void_p),
        ("cholesky", c_void_p),
        ("color", c_void_p),
        ("window_x", c_float),
        ("window_y", c_float),
        ("rgb", c_void_p),
        ("bytes", c_void_p),
        ("d_rgb", c_void_p),
        ("target", c_void_p),
        ("stride", c_int64),
        ("partial_count", c_void_p),
        ("partials", c_void_p),
        ("errors", c_void_p),
        ("error", c_void_p),
        ("d_position", c_void_p),
        ("d_cholesky", c_void_p),
        ("d_color", c_void_p),
    ]


class GopArguments(ctypes.Structure):
    _fields_ = [
        ("position", c_void_p),
        ("log_scale", c_void_p),
        ("shear", c_void_p),
        ("color", c_void_p),
        ("motion", c_void_p),
        ("shade", c_void_p),
        ("at_position", c_void_p),
        ("at_cholesky", c_void_p),
        ("at_color", c_void_p),
        ("d_at_position", c_void_p),
        ("d_at_cholesky", c_void_p),
        ("d_at_color", c_void_p),
        ("d_position", c_void_p),
        ("d_log_scale", c_void_p),
        ("d_shear", c_void_p),
        ("d_color", c_void_p),
        ("d_motion", c_void_p),
        ("d_shade", c_void_p),
        ("across", c_double),
        ("down", c_double),
        ("basis", c_float * MOST_ORDERS),
        ("count", c_uint32),
        ("motion_orders", c_int32),
        ("shade_orders", c_int32),
        ("unused", c_int32),
    ]


@functools.lru_cache(maxsize=1)
def project_arguments() -> type[ctypes.Structure]:
    """ProjectArguments; peel::Clip is opaque here, `peel4d_prepare` writes it."""

    class ProjectArguments(ctypes.Structure):
        _fields_ = [
            ("frame", Frame),
            ("clip", c_uint64 * (clip_bytes() // 8)),
            ("clip_number", c_int32),
            ("unused", c_int32),
        ]

    return ProjectArguments


@functools.lru_cache(maxsize=1)
def mesh_arguments() -> type[ctypes.Structure]:
    """MeshArguments, likewise."""

    class MeshArguments(ctypes.Structure):
        _fields_ = [
            ("frame", Frame),
            ("mesh", c_uint64 * (mesh_bytes() // 8)),
            ("screen", c_void_p),
            ("records", c_void_p),
            ("lists", Lists),
            ("entries", c_void_p),
        ]

    return MeshArguments


@functools.lru_cache(maxsize=1)
def backward_points_arguments() -> type[ctypes.Structure]:
    """BackwardPointsArguments, likewise."""

    class BackwardPointsArguments(ctypes.Structure):
        _fields_ = [
            ("clip", c_uint64 * (clip_bytes() // 8)),
            ("sums", c_void_p),
            ("position", c_void_p),
            ("radius", c_void_p),
            ("density", c_void_p),
            ("color", c_void_p),
        ]

    return BackwardPointsArguments


def clip_bytes() -> int:
    return library().peel4d_clip_bytes()


def mesh_bytes() -> int:
    return library().peel4d_mesh_bytes()
