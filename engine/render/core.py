"""The splat core: finding the library, and its C functions with numpy arrays.

Look-up order: the file named by $PEEL4D_CORE, then the installed package `peel4d_core` (a platform
wheel of its own, built from cuda/; the Blender extension bundles the same wheel).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_uint32
from pathlib import Path

import numpy as np

from ..errors import CoreError
from .camera import Camera
from .settings import PeelSettings
from .splats import SH_COUNTS

ABI_VERSION = 1
MAX_PIXELS = 1 << 28
INSTALL_HINT = "Install it with: pip install ./cuda (needs g++), or reinstall the extension"
_floats = POINTER(c_float)


class _Sized(ctypes.Structure):
    """A struct of the C interface: its first field is its own size in bytes."""

    def __init__(self, **values: object):
        super().__init__(size=ctypes.sizeof(self), **values)


class _Camera(_Sized):
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


class _Settings(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("layers", c_int32),
        ("threads", c_int32),
        ("min_radius_px", c_float),
        ("min_transmittance", c_float),
    ]


class _Points(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("sh_count", c_int32),
        ("count", c_int64),
        ("position", _floats),
        ("radius", _floats),
        ("density", _floats),
        ("color", _floats),
    ]


class _Image(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("rgba", _floats),
        ("depth", _floats),
        ("surface", _floats),
        ("layer_ids", POINTER(c_int32)),
    ]


class _Gradients(_Sized):
    _fields_ = [
        ("size", c_uint32),
        ("position", _floats),
        ("radius", _floats),
        ("density", _floats),
        ("color", _floats),
    ]


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The loaded core. Raises CoreError when it is missing or of another ABI version."""
    path = _find()
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
    core.peel4d_build_info.restype = c_char_p
    core.peel4d_error_message.restype = c_char_p
    core.peel4d_error_message.argtypes = [c_int32]
    frame = [POINTER(_Camera), POINTER(_Settings), POINTER(_Points)]
    core.peel4d_forward.argtypes = [*frame, POINTER(_Image)]
    core.peel4d_backward.argtypes = [*frame, _floats, _floats, POINTER(_Gradients)]
    core.peel4d_sh_forward.argtypes = [
        c_int64,
        c_int32,
        _floats,
        _floats,
        POINTER(c_double),
        c_int32,
        c_int32,
        _floats,
    ]
    for function in (core.peel4d_forward, core.peel4d_backward, core.peel4d_sh_forward):
        function.restype = c_int32
    return core


def _find() -> Path:
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


_HINTS = {
    2: "Close other programs, or use a smaller picture or fewer points",
    3: "Use a smaller picture, fewer points or smaller radii",
}


def _check(code: int) -> None:
    if code != 0:
        message = library().peel4d_error_message(code).decode()
        raise CoreError(f"the splat core stopped: {message}", hint=_HINTS.get(code))


def _pointer(array: np.ndarray | None):
    return None if array is None else array.ctypes.data_as(_floats)


def _float32(array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        array = np.ascontiguousarray(array, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise CoreError(f"{name} is no array of numbers ({error})") from error
    if array.shape != shape:
        raise CoreError(f"{name} has shape {array.shape}", hint=f"Expected {shape}")
    return array


def _camera(camera: Camera) -> _Camera:
    numbers = np.concatenate([camera.K.ravel(), camera.R.ravel(), camera.t])
    if not np.isfinite(numbers).all():
        raise CoreError("the camera has numbers that are not finite", hint="Check K, R and t")
    if not (np.isfinite([camera.near, camera.far]).all() and camera.near < camera.far):
        raise CoreError(
            f"the camera sees from {camera.near} to {camera.far}", hint="Check near, far"
        )
    width, height = camera.width, camera.height
    if not (0 < width <= 32767 and 0 < height <= 32767 and width * height <= MAX_PIXELS):
        raise CoreError(
            f"a picture of {width} x {height}", hint="1 to 32767 px a side, 268 million in all"
        )
    return _Camera(
        width=camera.width,
        height=camera.height,
        orthographic=int(camera.orthographic),
        fx=camera.K[0, 0],
        fy=camera.K[1, 1],
        skew=camera.K[0, 1],
        cx=camera.K[0, 2],
        cy=camera.K[1, 2],
        rotation=(c_double * 9)(*camera.R.ravel()),
        translation=(c_double * 3)(*camera.t),
        near_z=camera.near,
        far_z=camera.far,
    )


def _settings(settings: PeelSettings, threads: int) -> _Settings:
    return _Settings(
        layers=settings.layers,
        threads=threads,
        min_radius_px=settings.min_radius_px,
        min_transmittance=settings.min_transmittance,
    )


def _points(
    position: np.ndarray, radius: np.ndarray, density: np.ndarray, color: np.ndarray
) -> tuple[_Points, list[np.ndarray]]:
    """The struct, and the arrays that it points into (keep them alive)."""
    count = len(position) if np.ndim(position) == 2 else 0
    color = np.asarray(color)
    sh_count = 0 if color.ndim == 2 else (color.shape[1] if color.ndim == 3 else -1)
    if sh_count not in (0, *SH_COUNTS):
        raise CoreError(
            f"color has shape {color.shape}", hint="Expected (N, 3) or (N, 1 | 4 | 9 | 16, 3)"
        )
    arrays = [
        _float32(position, (count, 3), "position"),
        _float32(radius, (count,), "radius"),
        _float32(density, (count,), "density"),
        _float32(color, (count, sh_count, 3) if sh_count else (count, 3), "color"),
    ]
    names = ("position", "radius", "density", "color")
    pointers = dict(zip(names, map(_pointer, arrays), strict=True))
    return _Points(sh_count=sh_count, count=count, **pointers), arrays


def forward(
    position: np.ndarray,
    radius: np.ndarray,
    density: np.ndarray,
    color: np.ndarray,
    camera: Camera,
    settings: PeelSettings,
    *,
    threads: int = 0,
    want: tuple[str, ...] = ("surface",),
) -> dict[str, np.ndarray]:
    """Peel one picture.

    position (N, 3), radius (N,), density (N,), color (N, 3) rgb or (N, B, 3) harmonics, float32.
    threads: 0 for $PEEL4D_THREADS or all cores. want: of "depth" (sum of T alpha z, (H, W)),
    "surface" (z where alpha reaches 0.5, +inf elsewhere, (H, W)), "layer_ids" ((H, W, K) int32,
    -1 behind the last). Returns these and "rgba" (H, W, 4), premultiplied. Raises CoreError.
    """
    points, _arrays = _points(position, radius, density, color)
    shape = (camera.height, camera.width)
    c_camera = _camera(camera)
    try:
        out = {"rgba": np.empty((*shape, 4), np.float32)}
        out |= {name: np.empty(shape, np.float32) for name in ("depth", "surface") if name in want}
        ids = np.empty((*shape, settings.layers), np.int32) if "layer_ids" in want else None
    except MemoryError as error:
        raise CoreError(f"no memory for a picture of {shape[1]} x {shape[0]}") from error
    image = _Image(
        rgba=_pointer(out["rgba"]),
        depth=_pointer(out.get("depth")),
        surface=_pointer(out.get("surface")),
        layer_ids=None if ids is None else ids.ctypes.data_as(POINTER(c_int32)),
    )
    _check(library().peel4d_forward(c_camera, _settings(settings, threads), points, image))
    return out if ids is None else {**out, "layer_ids": ids}


def backward(
    position: np.ndarray,
    radius: np.ndarray,
    density: np.ndarray,
    color: np.ndarray,
    camera: Camera,
    settings: PeelSettings,
    d_rgba: np.ndarray,
    d_depth: np.ndarray | None = None,
    *,
    threads: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gradients by position, radius, density and color, shaped like them.

    d_rgba (H, W, 4), d_depth (H, W) or None: derivatives of a scalar by `forward`'s "rgba" and
    "depth". Raises CoreError.
    """
    points, arrays = _points(position, radius, density, color)
    c_camera = _camera(camera)
    shape = (camera.height, camera.width)
    d_rgba = _float32(d_rgba, (*shape, 4), "d_rgba")
    d_depth = None if d_depth is None else _float32(d_depth, shape, "d_depth")
    results = tuple(np.empty_like(array) for array in arrays)
    names = ("position", "radius", "density", "color")
    gradients = _Gradients(**dict(zip(names, map(_pointer, results), strict=True)))
    _check(
        library().peel4d_backward(
            c_camera,
            _settings(settings, threads),
            points,
            _pointer(d_rgba),
            _pointer(d_depth),
            gradients,
        )
    )
    return results


def evaluate_sh(
    position: np.ndarray,
    sh: np.ndarray,
    eye: np.ndarray,
    *,
    orthographic: bool = False,
    threads: int = 0,
) -> np.ndarray:
    """Colours (N, 3) in [0, 1] of harmonics (N, B, 3) seen from `eye` (3,).

    orthographic: `eye` is the viewing direction, the same for all points. Raises CoreError.
    """
    count = len(position) if np.ndim(position) == 2 else 0
    position = _float32(position, (count, 3), "position")
    sh = np.asarray(sh)
    basis = sh.shape[1] if sh.ndim == 3 else 0
    if basis not in SH_COUNTS:
        raise CoreError(f"sh has shape {sh.shape}", hint="Expected (N, 1 | 4 | 9 | 16, 3)")
    sh = _float32(sh, (count, basis, 3), "sh")
    rgb = np.empty((count, 3), np.float32)
    code = library().peel4d_sh_forward(
        count,
        basis,
        _pointer(position),
        _pointer(sh),
        (c_double * 3)(*eye),
        int(orthographic),
        threads,
        _pointer(rgb),
    )
    _check(code)
    return rgb
