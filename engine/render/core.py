"""The splat core on the CPU, with numpy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_void_p
from dataclasses import dataclass

import numpy as np

from ..errors import CoreError
from .camera import Camera
from .core_library import (
    CArray,
    CCamera,
    CClip,
    CGradients,
    CImage,
    CMesh,
    CSettings,
    build_info,
    check,
    library,
)
from .settings import PeelSettings
from .splats import SH_COUNTS, PackedSplats, Quantized, Splats
from .triangles import Triangles

__all__ = ["Frame", "PlacedClip", "backward", "build_info", "forward", "render_clips"]

MAX_PIXELS = 1 << 28
#: Attribute types of the C interface.
TYPES = {np.dtype(name): code for code, name in enumerate(("f4", "f2", "u1", "u2"))}
IDENTITY = np.eye(4)


@dataclass(frozen=True, eq=False)
class PlacedClip:
    """The points of a clip in the world, as the core takes them.

    matrix: (4, 4), clip -> world, affine. radius_scale: clip units -> world units. opacity:
    multiplies the density. eye: (3,) camera centre in the clip, orthographic: the unit viewing
    direction. id: what `surface_id` shows.
    """

    splats: Splats | PackedSplats
    matrix: np.ndarray
    radius_scale: float
    opacity: float
    eye: np.ndarray
    id: int


class Frame:
    """What a forward pass found out, kept for the backward pass of the same picture."""

    def __init__(self, handle: c_void_p) -> None:
        self._handle = handle
        self._free = library().peel4d_frame_free

    def __del__(self) -> None:
        self._free(self._handle)


def render_clips(
    clips: Sequence[PlacedClip],
    camera: Camera,
    settings: PeelSettings,
    *,
    triangles: Triangles | None = None,
    samples: int = 1,
    threads: int = 0,
    want: Sequence[str] = ("surface",),
    out: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Peel one picture of several clips, in one depth order, with triangles in it.

    want: of "depth" (sum of T alpha z, (H, W)), "surface" (z where alpha reaches 0.5, +inf
    elsewhere, (H, W)), "surface_id" ((H, W) int32, id of the surface's clip or triangle, else -1),
    "layer_ids" ((H, W, K) int32 points, -1 behind the last). samples: 1, 2 or 4 along each axis of
    a pixel. threads: 0 for $PEEL4D_THREADS or all cores. out: arrays to write to, else new ones.
    Returns these and "rgba" (H, W, 4), premultiplied. Raises CoreError.
    """
    out, _ = _forward(clips, camera, settings, triangles, samples, threads, want, out, keep=False)
    return out


def forward(
    position: np.ndarray,
    radius: np.ndarray,
    density: np.ndarray,
    color: np.ndarray,
    camera: Camera,
    settings: PeelSettings,
    *,
    threads: int = 0,
    want: Sequence[str] = ("surface",),
) -> dict[str, np.ndarray]:
    """Peel one picture of plain arrays.

    position (N, 3), radius (N,), density (N,), color (N, 3) rgb or (N, B, 3) harmonics, float32.
    threads, want and the result: as in `render_clips`. Raises CoreError.
    """
    clip = _Arrays(position, radius, density, color)
    return _forward([clip], camera, settings, None, 1, threads, want, None, keep=False)[0]


def forward_with_frame(
    position: np.ndarray,
    radius: np.ndarray,
    density: np.ndarray,
    color: np.ndarray,
    camera: Camera,
    settings: PeelSettings,
    *,
    threads: int = 0,
    want: Sequence[str] = ("depth",),
) -> tuple[dict[str, np.ndarray], Frame]:
    """`forward`, and the frame that makes the following `backward` of the same picture cheaper."""
    clip = _Arrays(position, radius, density, color)
    return _forward([clip], camera, settings, None, 1, threads, want, None, keep=True)


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
    frame: Frame | None = None,
    threads: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gradients by position, radius, density and color, shaped like them.

    d_rgba (H, W, 4), d_depth (H, W) or None: derivatives of a scalar by `forward`'s "rgba" and
    "depth". frame: of `forward_with_frame` with the very same arguments. Raises CoreError.
    """
    clip = _Arrays(position, radius, density, color)
    c_camera = camera_struct(camera)
    shape = (camera.height, camera.width)
    d_rgba = _float32(d_rgba, (*shape, 4), "d_rgba")
    d_depth = None if d_depth is None else _float32(d_depth, shape, "d_depth")
    results = tuple(np.empty_like(array) for array in clip.arrays)
    names = ("position", "radius", "density", "color")
    gradients = CGradients(**dict(zip(names, map(pointer, results), strict=True)))
    check(
        library().peel4d_backward(
            c_camera,
            settings_struct(settings, 1, threads),
            clip.struct([], camera),
            None if frame is None else frame._handle,
            pointer(d_rgba),
            pointer(d_depth),
            gradients,
        )
    )
    return results


def _forward(
    clips: Sequence[PlacedClip | _Arrays],
    camera: Camera,
    settings: PeelSettings,
    triangles: Triangles | None,
    samples: int,
    threads: int,
    want: Sequence[str],
    out: dict[str, np.ndarray] | None,
    keep: bool,
) -> tuple[dict[str, np.ndarray], Frame | None]:
    keep_alive: list[np.ndarray] = []
    structs = (CClip * len(clips))()
    for index, clip in enumerate(clips):
        structs[index] = (
            clip.struct(keep_alive, camera)
            if isinstance(clip, _Arrays)
            else clip_struct(clip, keep_alive)
        )
    c_camera = camera_struct(camera)
    out = outputs(camera, settings, want, out)
    image = CImage(**{name: pointer(array) for name, array in out.items()})
    handle = c_void_p()
    code = library().peel4d_forward(
        c_camera,
        settings_struct(settings, samples, threads),
        structs,
        len(clips),
        None if triangles is None else mesh_struct(triangles),
        image,
        ctypes.byref(handle) if keep else None,
    )
    check(code)
    return out, Frame(handle) if keep else None


def outputs(
    camera: Camera,
    settings: PeelSettings,
    want: Sequence[str],
    out: dict[str, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    shape = (camera.height, camera.width)
    forms = {
        "rgba": ((*shape, 4), np.float32),
        "depth": (shape, np.float32),
        "surface": (shape, np.float32),
        "surface_id": (shape, np.int32),
        "layer_ids": ((*shape, settings.layers), np.int32),
    }
    result = {}
    for name in ("rgba", *want):
        form, dtype = forms[name]
        array = None if out is None else out.get(name)
        if array is None:
            try:
                array = np.empty(form, dtype)
            except MemoryError as error:
                raise CoreError(f"no memory for a picture of {shape[1]} x {shape[0]}") from error
        elif (
            array.shape != form
            or array.dtype != dtype
            or not array.flags.c_contiguous
            or not array.flags.writeable
        ):
            raise CoreError(
                f"the array for {name} has shape {array.shape} and type {array.dtype}",
                hint=f"Expected a writeable contiguous {form} of {np.dtype(dtype).name}",
            )
        result[name] = array
    return result


class _Arrays:
    """Plain arrays, checked, as the training gives them."""

    def __init__(
        self, position: np.ndarray, radius: np.ndarray, density: np.ndarray, color: np.ndarray
    ) -> None:
        count = len(position) if np.ndim(position) == 2 else 0
        color = np.asarray(color)
        basis = 0 if color.ndim == 2 else (color.shape[1] if color.ndim == 3 else -1)
        if basis not in (0, *SH_COUNTS):
            raise CoreError(
                f"color has shape {color.shape}", hint="Expected (N, 3) or (N, 1 | 4 | 9 | 16, 3)"
            )
        self.sh_count = basis
        self.arrays = (
            _float32(position, (count, 3), "position"),
            _float32(radius, (count,), "radius"),
            _float32(density, (count,), "density"),
            _float32(color, (count, basis, 3) if basis else (count, 3), "color"),
        )

    def struct(self, keep_alive: list[np.ndarray], camera: Camera) -> CClip:
        """The struct; it points into this object's arrays."""
        keep_alive.extend(self.arrays)
        names = ("position", "radius", "density", "color")
        components = (3, 1, 1, 3 * max(self.sh_count, 1))
        return CClip(
            sh_count=self.sh_count,
            count=len(self.arrays[0]),
            matrix=(c_double * 12)(*IDENTITY[:3].ravel()),
            radius_scale=1.0,
            opacity=1.0,
            eye=(c_double * 3)(*(camera.forward if camera.orthographic else camera.centre)),
            **{
                name: CArray(type=0, data=pointer(array), point_stride=stride, component_stride=1)
                for name, array, stride in zip(names, self.arrays, components, strict=True)
            },
        )


def clip_struct(clip: PlacedClip, keep_alive: list[np.ndarray]) -> CClip:
    """The struct of a clip; `keep_alive` receives the arrays that it points into."""
    splats = clip.splats
    return CClip(
        sh_count=SH_COUNTS[splats.sh_degree],
        id=clip.id,
        count=len(splats),
        matrix=(c_double * 12)(*np.asarray(clip.matrix, np.float64)[:3].ravel()),
        radius_scale=clip.radius_scale,
        opacity=clip.opacity,
        eye=(c_double * 3)(*clip.eye),
        position=array_struct(splats.position, keep_alive),
        radius=array_struct(splats.radius, keep_alive),
        density=array_struct(splats.density, keep_alive),
        color=array_struct(splats.sh, keep_alive),
    )


def array_struct(attribute: np.ndarray | Quantized, keep_alive: list[np.ndarray]) -> CArray:
    """The struct of one attribute: floats (N,), (N, C) or (N, B, 3), or codes (N, C)."""
    if isinstance(attribute, Quantized):
        codes = attribute.codes
        keep_alive.append(codes)
        strides = [stride // codes.itemsize for stride in codes.strides]
        fields = {"data": pointer(codes)}
        if attribute.table is not None:
            table = np.ascontiguousarray(attribute.table, np.float32)
            keep_alive.append(table)
            fields |= {"table": pointer(table), "table_size": len(table)}
        else:
            for name in ("step", "low", "high"):
                numbers = np.ascontiguousarray(getattr(attribute, name), np.float64)
                keep_alive.append(numbers)
                fields[name] = pointer(numbers)
        return CArray(
            type=TYPES[codes.dtype], point_stride=strides[0], component_stride=strides[1], **fields
        )
    array = np.ascontiguousarray(attribute)
    keep_alive.append(array)
    components = array.size // max(len(array), 1)
    return CArray(
        type=TYPES[array.dtype], data=pointer(array), point_stride=components, component_stride=1
    )


def mesh_struct(triangles: Triangles) -> CMesh:
    """The struct of all triangles; it points into their arrays."""
    return CMesh(
        vertex_count=len(triangles.position),
        count=len(triangles.index),
        position=pointer(triangles.position),
        index=pointer(triangles.index),
        color=pointer(triangles.color),
        holdout=pointer(triangles.holdout),
        id=pointer(triangles.id),
    )


def camera_struct(camera: Camera) -> CCamera:
    """The struct of a camera. Raises CoreError for one that no picture can have."""
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
    return CCamera(
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


def settings_struct(settings: PeelSettings, samples: int, threads: int) -> CSettings:
    """The struct of the settings. Raises CoreError for another number of samples than 1, 2, 4."""
    if samples not in (1, 2, 4):
        raise CoreError(f"{samples} samples along a side of a pixel", hint="Use 1, 2 or 4")
    return CSettings(
        layers=settings.layers,
        samples=samples,
        threads=threads,
        min_radius_px=settings.min_radius_px,
        min_transmittance=settings.min_transmittance,
    )


def pointer(array: np.ndarray | None) -> int | None:
    """Address of an array's data."""
    return None if array is None else array.ctypes.data


def _float32(array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        array = np.ascontiguousarray(array, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise CoreError(f"{name} is no array of numbers ({error})") from error
    if array.shape != shape:
        raise CoreError(f"{name} has shape {array.shape}", hint=f"Expected {shape}")
    return array
