"""Pictures made by a GPU. One renderer per process and GPU holds everything that lives there."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Sequence
from ctypes import c_double

import numpy as np

from . import core
from .camera import Camera
from .core_library import CClip
from .cuda_device import Device, OutOfDeviceMemory, open_device
from .cuda_frame import DeviceScene, FrameQueue, Job, PixelGradients
from .cuda_memory import DeviceMemory, limit_from_environment
from .cuda_upload import (
    Uploads,
    plain_array,
    splat_parts,
    splat_struct,
    triangle_parts,
    triangle_struct,
)
from .settings import PeelSettings, Rendered
from .splats import PackedSplats, Splats
from .triangles import Triangles

_IN_FLIGHT = 4  # frames whose end is remembered, so that uploads know when a block is free
_SPARE_UPLOADS = 3  # objects that stay on the device though the last frame did not need them
_FORMS = {
    "rgba": (4, np.float32),
    "depth": (1, np.float32),
    "surface": (1, np.float32),
    "surface_id": (1, np.int32),
    "layer_ids": (0, np.int32),  # as many as there are layers
}


class CudaRenderer:
    """Peels pictures on a device; thread-safe.

    max_vram: bytes of device memory that it may use, None for $PEEL4D_MAX_VRAM or what there is.
    Everything raises CoreError, with numbers when memory is short, and can be used on after it.
    """

    def __init__(self, device: Device, *, max_vram: int | None = None):
        self.device = device
        self._lock = threading.RLock()
        limit = limit_from_environment() if max_vram is None else max_vram
        with device.active():
            # Uploads have a stream of their own, or they would wait for what is read back.
            self._stream, copy_stream, count_stream = (device.stream() for _ in range(3))
            self._memory = DeviceMemory(device, limit)
            self._uploads = Uploads(device, self._memory, copy_stream)
            self._memory.relieve = self._relieve
            self._queue = FrameQueue(device, self._memory, count_stream)
            self._frame_ends = [device.event() for _ in range(_IN_FLIGHT)]
        self._frames = 0
        self._in_use = 0
        self._results: dict[str, np.ndarray] = {}  # page-locked, by output
        self._page_locked: weakref.WeakValueDictionary[int, np.ndarray] = (
            weakref.WeakValueDictionary()
        )

    @property
    def vram_used(self) -> int:
        """Bytes of device memory in use."""
        return self._memory.used

    @property
    def stream(self) -> object:
        """Where pictures are drawn."""
        return self._stream

    def prefetch(self, splats: Splats | PackedSplats) -> None:
        """Begin to upload points that a later picture shows, beside what is being drawn.

        Points are known by their object, which must not change.
        """
        with self._lock, self.device.active():
            self._uploads.get(splats, lambda: splat_parts(splats))

    def picture(self, width: int, height: int, *, ids: bool = False) -> Rendered:
        """An empty picture in page-locked memory: as `out` it is filled without another copy."""
        with self._lock, self.device.active():
            arrays = [
                self._page_locked_array((height, width, 4), np.float32),
                self._page_locked_array((height, width), np.float32),
                self._page_locked_array((height, width), np.int32) if ids else None,
            ]
        return Rendered(*arrays, backend="cuda")

    def render_clips(
        self,
        clips: Sequence[core.PlacedClip],
        camera: Camera,
        settings: PeelSettings,
        *,
        triangles: Triangles | None = None,
        samples: int = 1,
        want: Sequence[str] = ("surface",),
        out: dict[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Peel one picture; the same as `core.render_clips`."""
        out = core.outputs(camera, settings, want, out)
        with self._lock, self.device.active():
            job = self._draw(clips, camera, settings, triangles, samples, tuple(out))
            self._queue.settle(job)
            self._fetch(job, out)
        return out

    def draw(
        self,
        clips: Sequence[core.PlacedClip],
        camera: Camera,
        settings: PeelSettings,
        *,
        triangles: Triangles | None = None,
        samples: int = 1,
        want: Sequence[str] = ("surface",),
    ) -> None:
        """Queue a picture on `stream` that stays on the device, without waiting for anything.

        For measurements: draw it once with `render_clips`, so that all memory is there.
        """
        with self._lock, self.device.active():
            self._draw(clips, camera, settings, triangles, samples, ("rgba", *want))

    def forward_pointers(
        self,
        scene: DeviceScene,
        outputs: dict[str, int],
        stream: object,
    ) -> Job:
        """Queue a picture of points on the device into memory on the device, on `stream`.

        outputs: addresses by name, see `peel4d_image`. Waits until the device has counted what the
        picture needs, not for the picture. Returns what `backward_pointers` takes.
        """
        with self._lock, self.device.active():
            self._memory.begin_frame()
            job = self._queue.forward(scene, outputs, stream, keep=True)
            self._queue.settle(job)
            return job

    def backward_pointers(
        self, job: Job, pixels: PixelGradients, gradients: dict[str, int], stream: object
    ) -> None:
        """Queue the derivatives of a picture of one clip.

        gradients: addresses of "position", "radius", "density", "color" that are written. The
        inputs of the picture must still be where they were.
        """
        with self._lock, self.device.active():
            self._queue.backward(job, pixels, gradients, stream)

    def close(self) -> None:
        """Give all device memory back. The renderer must not be used afterwards."""
        with self._lock, self.device.active():
            self.device.synchronize()
            self._uploads.clear()
            self._memory.close()

    def _draw(self, clips, camera, settings, triangles, samples, names) -> Job:
        keep_alive: list[np.ndarray] = []
        structs, used = [], []
        clips = [clip for clip in clips if len(clip.splats)]  # the others launch no kernel
        self._memory.begin_frame()
        self._in_use = len(clips) + 1
        for clip in clips:
            upload = self._uploads.get(clip.splats, functools.partial(splat_parts, clip.splats))
            used.append(upload)
            structs.append(splat_struct(clip, upload.addresses, keep_alive))
        mesh = None
        if triangles is not None:
            upload = self._uploads.get(triangles, lambda: triangle_parts(triangles))
            used.append(upload)
            mesh = triangle_struct(triangles, upload.addresses)
        scene = DeviceScene(
            core.camera_struct(camera), core.settings_struct(settings, samples, 0), structs, mesh
        )
        pixels = camera.width * camera.height
        outputs = {
            name: self._memory.reserve(
                name, pixels * (_FORMS[name][0] or settings.layers) * _FORMS[name][1]().itemsize
            )
            for name in names
        }
        for upload in used:
            self.device.wait(self._stream, upload.ready)
        job = self._queue.forward(scene, outputs, self._stream)
        end = self._frame_ends[self._frames % _IN_FLIGHT]
        end.record(self._stream)
        self._frames += 1
        for upload in used:
            upload.block.used_until = end
        self._uploads.trim(self._in_use + _SPARE_UPLOADS)
        return job

    def _relieve(self) -> None:
        self._uploads.trim(self._in_use)
        self._queue.last = None  # its memory may go

    def _fetch(self, job: Job, out: dict[str, np.ndarray]) -> None:
        """Copy a picture to the host and wait for it."""
        staged = {}
        for name, array in out.items():
            target = array
            if self._page_locked.get(id(array)) is not array:
                target = staged[name] = self._result(name, array.nbytes)
            self.device.to_host(target.reshape(-1), job.outputs[name], self._stream)
        end = self._frame_ends[(self._frames - 1) % _IN_FLIGHT]
        end.record(self._stream)
        end.synchronize()
        for name, memory in staged.items():
            np.copyto(out[name], memory.view(out[name].dtype).reshape(out[name].shape))

    def _result(self, name: str, nbytes: int) -> np.ndarray:
        memory = self._results.get(name)
        if memory is None or len(memory) < nbytes:
            self._results.pop(name, None)
            memory = self._results[name] = self._pinned(nbytes)
        return memory[:nbytes]

    def _page_locked_array(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        nbytes = int(np.prod(shape)) * dtype().itemsize
        array = self._pinned(nbytes).view(dtype).reshape(shape)
        self._page_locked[id(array)] = array
        return array

    def _pinned(self, nbytes: int) -> np.ndarray:
        try:
            return self.device.pinned(nbytes)
        except OutOfDeviceMemory:  # slower, but it works
            return np.empty(nbytes, np.uint8)


def device_clip(addresses: dict[str, int], count: int, sh_count: int, camera: Camera) -> CClip:
    """The struct of contiguous float32 arrays on the device, in world space.

    addresses: of "position" (N, 3), "radius" (N,), "density" (N,), "color" (N, max(sh_count, 1),
    3).
    """
    components = {"position": 3, "radius": 1, "density": 1, "color": 3 * max(sh_count, 1)}
    return CClip(
        sh_count=sh_count,
        count=count,
        matrix=(c_double * 12)(*core.IDENTITY[:3].ravel()),
        radius_scale=1.0,
        opacity=1.0,
        eye=(c_double * 3)(*(camera.forward if camera.orthographic else camera.centre)),
        **{name: plain_array(addresses[name], size) for name, size in components.items()},
    )


@functools.cache
def renderer(index: int = 0) -> CudaRenderer:
    """The process's renderer on GPU `index`. Raises CoreError ("no CUDA here: ...") without it."""
    return CudaRenderer(open_device(index))
