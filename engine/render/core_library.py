"""The library of the splat core: finding it, and its C interface (cuda/include/peel4d.h).

Look-up order: the file named by $PEEL4D_CORE, then the installed package `peel4d_core` (a platform
wheel of its own, built from cuda/; the Blender extension bundles the same wheel).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_uint32, c_void_p
from pathlib import Path

from ..errors import CoreError

ABI_VERSION = 5
INSTALL_HINT = "Install it with: pip install ./cuda (needs g++), or reinstall the extension"
_HINTS = {
    2: "Close other programs, or use a smaller picture or fewer points",
    3: "Use a smaller picture, fewer points or smaller radii",
}


class _Sized(ctypes.Structure):
    """A struct whose first field is its own size in bytes."""

    def __init__(self, **values: object):
        super().__init__(size=ctypes.sizeof(self), **values)


class CCamera(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("width", c_int32),
        ("height", c_int32),
        ("orthographic", c_int32),
        ("fx", c_double),
        ("fy", c_double),
        ("skew", c_double),
        ("cx", c_double),
        ("cy", c_double),
        ("rotation", c_double * 9),
        ("translation", c_double * 3),
        ("near_z", c_double),
        ("far_z", c_double),
    ]


class CSettings(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("layers", c_int32),
        ("samples", c_int32),
        ("threads", c_int32),
        ("min_radius_px", c_float),
        ("min_transmittance", c_float),
    ]


class CArray(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("type", c_int32),
        ("data", c_void_p),
        ("point_stride", c_int64),
        ("component_stride", c_int64),
        ("step", c_void_p),
        ("low", c_void_p),
        ("high", c_void_p),
        ("table", c_void_p),
        ("table_size", c_int32),
        ("reserved", c_int32),
    ]


class CClip(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("sh_count", c_int32),
        ("id", c_int32),
        ("reserved", c_int32),
        ("count", c_int64),
        ("position", CArray),
        ("radius", CArray),
        ("density", CArray),
        ("color", CArray),
        ("matrix", c_double * 12),
        ("radius_scale", c_double),
        ("opacity", c_double),
        ("eye", c_double * 3),
    ]


class CMesh(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("reserved", c_uint32),
        ("vertex_count", c_int64),
        ("count", c_int64),
        ("position", c_void_p),
        ("index", c_void_p),
        ("color", c_void_p),
        ("holdout", c_void_p),
        ("id", c_void_p),
    ]


class CImage(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("rgba", c_void_p),
        ("depth", c_void_p),
        ("surface", c_void_p),
        ("surface_id", c_void_p),
        ("layer_ids", c_void_p),
    ]


class CComponent(ctypes.Structure):
    _fields_ = [("spatial", c_int32), ("follows", c_int32), ("set", c_int32)]


class CWindow(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("x", c_int32),
        ("y", c_int32),
        ("width", c_int32),
        ("height", c_int32),
        ("threads", c_int32),
    ]


class CTruth(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("width", c_int32),
        ("height", c_int32),
        ("samples", c_int32),
        ("threads", c_int32),
        ("mask_weight", c_float),
        ("dssim_weight", c_float),
        ("reserved", c_uint32),
        ("pixels", c_double),
        ("x", c_double),
        ("dx", c_double),
        ("y", c_double),
        ("dy", c_double),
        ("rgb", c_void_p),
        ("background", c_void_p),
        ("region", c_void_p),
        ("mask", c_void_p),
        ("known", c_void_p),
    ]


class CTone(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("gain", c_float * 3),
        ("offset", c_float * 3),
        ("vignetting", c_float * 6),
    ]


class CGradients(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("position", c_void_p),
        ("radius", c_void_p),
        ("density", c_void_p),
        ("color", c_void_p),
    ]


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The loaded core. Raises CoreError when it is missing or of another ABI version."""
    path = find_library()
    try:
        core = ctypes.CDLL(str(path))
        core.peel4d_abi_version.restype = c_int32
        version = core.peel4d_abi_version()
    except (OSError, AttributeError) as error:  # not a library, or a foreign one
        raise CoreError(
            f"the splat core cannot be loaded ({error})", where=path, hint=INSTALL_HINT
        ) from error
    if version != ABI_VERSION:
        raise CoreError(
            f"the splat core has ABI version {version}, this Peel4D needs {ABI_VERSION}",
            where=path,
            hint=INSTALL_HINT,
        )
    camera, settings, clips = POINTER(CCamera), POINTER(CSettings), POINTER(CClip)
    signatures = {
        "peel4d_build_info": (c_char_p, []),
        "peel4d_error_message": (c_char_p, [c_int32]),
        "peel4d_forward": (
            c_int32,
            [camera, settings, clips, c_int32, POINTER(CMesh), POINTER(CImage), c_void_p],
        ),
        "peel4d_backward": (
            c_int32,
            [camera, settings, clips, c_void_p, c_void_p, c_void_p, POINTER(CGradients)],
        ),
        "peel4d_frame_free": (None, [c_void_p]),
        "peel4d_clip_bytes": (c_int64, []),
        "peel4d_mesh_bytes": (c_int64, []),
        "peel4d_prepare": (
            c_int32,
            [camera, settings, clips, c_int32, POINTER(CMesh), c_void_p, c_void_p],
        ),
        "peel4d_encode_points": (
            c_int32,
            [c_void_p, c_int64, c_int32, c_void_p, POINTER(CComponent), c_int32, c_void_p],
        ),
        "peel4d_stream_data": (c_void_p, [c_void_p]),
        "peel4d_stream_bytes": (c_int64, [c_void_p]),
        "peel4d_stream_free": (None, [c_void_p]),
        "peel4d_decode_points": (
            c_int32,
            [c_void_p, c_int64, c_int64, c_int32, POINTER(CComponent), c_int32, c_void_p, c_void_p],
        ),
        "peel4d_encode_symbols": (
            c_int32,
            [c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_int32, c_int32, c_void_p],
        ),
        "peel4d_decode_symbols": (
            c_int32,
            [c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_void_p, c_int32, c_int32, c_void_p],
        ),
        "peel4d_gaussians_draw": (c_int32, [POINTER(CWindow), c_int64, *[c_void_p] * 5]),
        "peel4d_gaussians_backward": (c_int32, [POINTER(CWindow), c_int64, *[c_void_p] * 7]),
        "peel4d_gaussians_fit": (
            c_int32,
            [POINTER(CWindow), c_int64, *[c_void_p] * 4, c_int64, *[c_void_p] * 4],
        ),
        "peel4d_picture_loss": (
            c_int32,
            [
                POINTER(CTruth),
                c_void_p,
                POINTER(CTone),
                c_void_p,
                POINTER(CTone),
                POINTER(c_double),
                POINTER(c_double),
            ],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(core, name)
        function.restype, function.argtypes = result, arguments
    return core


def find_library() -> Path:
    """Where the library lies; the GPU's kernels lie beside it. Raises CoreError."""
    named = os.environ.get("PEEL4D_CORE")
    if named:
        if not Path(named).is_file():
            raise CoreError(
                "$PEEL4D_CORE names a file that does not exist", where=named, hint=INSTALL_HINT
            )
        return Path(named)
    try:
        return Path(importlib.import_module("peel4d_core").library_path())
    except ImportError as error:
        raise CoreError("the splat core is not installed", hint=INSTALL_HINT) from error


def build_info() -> str:
    """Version of the core and the instruction set in use, as "0.1.0 avx2"."""
    return library().peel4d_build_info().decode()


def check(code: int) -> None:
    """Raise CoreError for the code of a failed call."""
    if code != 0:
        message = library().peel4d_error_message(code).decode()
        raise CoreError(f"the splat core stopped: {message}", hint=_HINTS.get(code))
