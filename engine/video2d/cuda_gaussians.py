"""Two-dimensional Gaussians on an NVIDIA GPU: the functions of `gaussians.py`, beside them the same
on device memory, and frames of a group of pictures whose polynomials the GPU evaluates.

The kernels take the core's own arithmetic in the same order, so pictures are those of the CPU, but
for the last bit of a logarithm in a Gaussian's cut. Gradients are reproducible: each is summed up
in an order that depends on nothing else.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import CoreError
from ..render import cuda_kernels as kernels
from ..render.cuda_device import Device, OutOfDeviceMemory, open_device
from ..render.cuda_memory import DeviceMemory, limit_from_environment
from ..render.cuda_upload import Uploads
from ..render.window import Window
from .cuda_queue import DeviceGaussians, GaussianQueue, Task, check_window
from .gaussians import Gaussians2D, check_target, checked_arrays
from .gop import MAX_ORDER, Gop, frame_time, legendre

#: The arrays of a `Gop`.
GOP_ARRAYS = ("position", "log_scale", "shear", "color", "motion", "shade")
_GROUPS = 2  # groups of pictures that stay on the device


class CudaGaussians:
    """Draws and differentiates pictures of Gaussians on a device; thread-safe.

    max_vram: bytes of device memory that it may use, None for $PEEL4D_MAX_VRAM or what there is.
    Everything raises CoreError, with numbers when memory is short, and can be used on after it.
    """

    def __init__(self, device: Device, *, max_vram: int | None = None):
        self.device = device
        self._lock = threading.RLock()
        limit = limit_from_environment() if max_vram is None else max_vram
        with device.active():
            self._stream, copy_stream, count_stream = (device.stream() for _ in range(3))
            self._memory = DeviceMemory(device, limit)
            self._uploads = Uploads(device, self._memory, copy_stream)
            self._memory.relieve = lambda: self._uploads.trim(1)
            self._queue = GaussianQueue(device, self._memory, count_stream)
            self._end = device.event()
        self._uploading: list[np.ndarray] = []

    @property
    def vram_used(self) -> int:
        """Bytes of device memory in use."""
        return self._memory.used

    @property
    def stream(self) -> object:
        """Where pictures are drawn that go to the host."""
        return self._stream

    def picture(self, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 in page-locked memory, which as `out` the GPU fills itself."""
        with self._lock, self.device.active():
            try:
                memory = self.device.pinned(3 * width * height)
            except OutOfDeviceMemory:  # slower, but it works
                memory = np.empty(3 * width * height, np.uint8)
        return memory.reshape(height, width, 3)

    def draw(
        self, gaussians: Gaussians2D, window: Window, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The picture (height, width, 3) uint8, clamped and rounded; out: an array for it."""
        picture = _output(window, np.uint8, out)
        with self._lock, self.device.active():
            self._memory.begin_frame()
            inputs = self._upload(gaussians)
            address = self._memory.reserve("picture", picture.nbytes)
            task = Task("gaussians_draw", inputs, window, picture=address)
            self._queue.run(task, self._stream)
            self._fetch([picture], [address])
        return picture

    def draw_linear(self, gaussians: Gaussians2D, window: Window) -> np.ndarray:
        """The sum itself, (height, width, 3) float32, not clamped."""
        picture = _output(window, np.float32, None)
        with self._lock, self.device.active():
            self._memory.begin_frame()
            inputs = self._upload(gaussians)
            address = self._memory.reserve("picture", picture.nbytes)
            self._queue.run(Task("gaussians_draw", inputs, window, rgb=address), self._stream)
            self._fetch([picture], [address])
        return picture

    def backward(
        self, gaussians: Gaussians2D, window: Window, d_picture: np.ndarray
    ) -> Gaussians2D:
        """Gradients of a scalar, given its own with respect to `draw_linear`'s picture."""
        d_picture = np.ascontiguousarray(d_picture, dtype=np.float32)
        if d_picture.shape != (window.height, window.width, 3):
            raise CoreError(f"a gradient of shape {d_picture.shape} for another picture")
        with self._lock, self.device.active():
            self._memory.begin_frame()
            inputs = self._upload(gaussians)
            address = self._memory.reserve("picture", d_picture.nbytes)
            self.device.to_device(address, d_picture, self._stream)
            gradients = self._split("gradients", inputs.count)
            self._queue.run(_backward(inputs, window, address, gradients), self._stream)
            return self._fetch_gradients(gradients)

    def fit(
        self, gaussians: Gaussians2D, window: Window, target: np.ndarray
    ) -> tuple[float, Gaussians2D]:
        """Mean squared error of a window of a picture and its gradients, in one pass.

        target: (H, W, 3) uint8, the whole picture; the window must lie inside. The picture is
        clamped to [0, 1] before it is compared, and the clamp passes gradients on.
        """
        check_target(window, target)
        error = np.empty(1, np.float32)
        with self._lock, self.device.active():
            self._memory.begin_frame()
            inputs = self._upload(gaussians)
            address = self._memory.reserve("picture", target.nbytes)
            self.device.to_device(address, target, self._stream)
            gradients = self._split("gradients", inputs.count)
            error_address = self._memory.reserve("error", error.nbytes)
            task = _fit(inputs, window, address, target.shape[1], gradients, error_address)
            self._queue.run(task, self._stream)
            self.device.to_host(error, error_address, self._stream)
            d_gaussians = self._fetch_gradients(gradients)
        return float(error[0]), d_gaussians

    def draw_frame(
        self,
        gop: Gop,
        frame: float,
        *,
        size: tuple[int, int] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """A frame 0 .. frames - 1 of a group, or a time in between, as (height, width, 3) uint8.

        size: (width, height), the group's own by default. The group is known by its object, which
        must not change, and is uploaded once.
        """
        width, height = size or (gop.width, gop.height)
        window = Window(0, 0, width, height)
        picture = _output(window, np.uint8, out)
        with self._lock, self.device.active():
            self._memory.begin_frame()
            upload = self._uploads.get(gop, lambda: _parts(gop))
            address = self._memory.reserve("picture", picture.nbytes)
            gaussians = self._split("inputs", len(gop))
            self.device.wait(self._stream, upload.ready)
            arrays = dict(zip(GOP_ARRAYS, upload.addresses, strict=True))
            basis = legendre(MAX_ORDER, frame_time(frame, gop.frames))
            self._evaluate(
                "gaussians_at",
                {**arrays, **_prefixed("at_", gaussians)},
                len(gop),
                (len(gop.motion), len(gop.shade)),
                basis,
                self._stream,
                scale=(width / gop.width, height / gop.height),
            )
            task = Task("gaussians_draw", gaussians, window, picture=address)
            self._queue.run(task, self._stream)
            self._fetch([picture], [address])
            upload.block.used_until = self._end  # which has passed
            self._uploads.trim(_GROUPS)
        return picture

    def at_pointers(
        self,
        gop: Mapping[str, int],
        count: int,
        orders: tuple[int, int],
        basis: Sequence[float],
        at: DeviceGaussians,
        stream: object,
    ) -> None:
        """Queue the Gaussians of a group at one time, `Gop.at`.

        gop: addresses of its arrays by `GOP_ARRAYS`. orders: of motion and shade, at most 6.
        basis: the polynomials at that time, as many as the larger one.
        """
        with self._lock, self.device.active():
            arrays = {**gop, **_prefixed("at_", at)}
            self._evaluate("gaussians_at", arrays, count, orders, basis, stream)

    def at_backward_pointers(
        self,
        gradients: Mapping[str, int],
        orders: tuple[int, int],
        basis: Sequence[float],
        at: DeviceGaussians,
        d_at: DeviceGaussians,
        stream: object,
    ) -> None:
        """Queue the derivatives of `at_pointers`; at: what it has written, d_at: a derivative by
        that. gradients: addresses of those of `GOP_ARRAYS` that are wanted."""
        arrays = {f"d_{name}": address for name, address in gradients.items()}
        arrays |= _prefixed("at_", at) | _prefixed("d_at_", d_at)
        with self._lock, self.device.active():
            self._evaluate("gaussians_at_backward", arrays, at.count, orders, basis, stream)

    def draw_pointers(
        self,
        gaussians: DeviceGaussians,
        window: Window,
        stream: object,
        *,
        rgb: int | None = None,
        picture: int | None = None,
    ) -> None:
        """Queue `draw_linear` to the address `rgb`, `draw` to `picture`, or both, on `stream`.

        As with the two below, the host waits for the first kernels only, and the inputs must stay
        where they are until the stream has passed them.
        """
        self._run(Task("gaussians_draw", gaussians, window, rgb=rgb, picture=picture), stream)

    def backward_pointers(
        self,
        gaussians: DeviceGaussians,
        window: Window,
        d_rgb: int,
        gradients: DeviceGaussians,
        stream: object,
    ) -> None:
        """Queue `backward`; d_rgb: address of (height, width, 3) float32."""
        self._run(_backward(gaussians, window, d_rgb, gradients), stream)

    def fit_pointers(
        self,
        gaussians: DeviceGaussians,
        window: Window,
        target: int,
        target_width: int,
        gradients: DeviceGaussians,
        error: int,
        stream: object,
    ) -> None:
        """Queue `fit`. target: address of a contiguous 8-bit picture of so many pixels a row that
        holds the window; error: of one float32."""
        self._run(_fit(gaussians, window, target, target_width, gradients, error), stream)

    def close(self) -> None:
        """Give all device memory back. The object must not be used afterwards."""
        with self._lock, self.device.active():
            self.device.synchronize()
            self._uploads.clear()
            self._memory.close()

    def _evaluate(
        self,
        kernel: str,
        arrays: Mapping[str, int],
        count: int,
        orders: tuple[int, int],
        basis: Sequence[float],
        stream: object,
        *,
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        if count == 0:
            return
        arguments = kernels.GopArguments(
            **arrays,
            across=scale[0],
            down=scale[1],
            basis=(ctypes.c_float * kernels.MOST_ORDERS)(*basis),
            count=count,
            motion_orders=orders[0],
            shade_orders=orders[1],
        )
        blocks = -(-count // kernels.TILE_THREADS)
        self.device.launch(kernel, blocks, kernels.TILE_THREADS, arguments, stream)

    def _run(self, task: Task, stream: object) -> None:
        with self._lock, self.device.active():
            self._memory.begin_frame()
            self._queue.run(task, stream)

    def _upload(self, gaussians: Gaussians2D) -> DeviceGaussians:
        # Kept, because the copies may read them until the caller waits.
        self._uploading = arrays = checked_arrays(gaussians)
        inputs = self._split("inputs", len(gaussians))
        for address, array in zip(_addresses(inputs), arrays, strict=True):
            if array.size:
                self.device.to_device(address, array, self._stream)
        return inputs

    def _split(self, name: str, count: int) -> DeviceGaussians:
        """A buffer for all three arrays."""
        base = self._memory.reserve(name, 4 * sum(_COLUMNS) * count)
        return DeviceGaussians(count, base, base + 4 * 2 * count, base + 4 * 5 * count)

    def _fetch_gradients(self, gradients: DeviceGaussians) -> Gaussians2D:
        arrays = [np.empty((gradients.count, columns), np.float32) for columns in _COLUMNS]
        self._fetch(arrays, _addresses(gradients))
        return Gaussians2D(*arrays)

    def _fetch(self, arrays: Sequence[np.ndarray], addresses: Sequence[int]) -> None:
        """Copy to the host and wait for it."""
        for array, address in zip(arrays, addresses, strict=True):
            if array.size:
                self.device.to_host(array.reshape(-1), address, self._stream)
        self._end.record(self._stream)
        self._end.synchronize()


_COLUMNS = (2, 3, 3)


def _backward(
    gaussians: DeviceGaussians, window: Window, d_rgb: int, gradients: DeviceGaussians
) -> Task:
    return Task("gaussians_backward", gaussians, window, d_rgb=d_rgb, gradients=gradients)


def _fit(
    gaussians: DeviceGaussians,
    window: Window,
    target: int,
    target_width: int,
    gradients: DeviceGaussians,
    error: int,
) -> Task:
    stride = 3 * target_width
    return Task(
        "gaussians_fit",
        gaussians,
        window,
        target=target + window.y * stride + 3 * window.x,
        stride=stride,
        error=error,
        gradients=gradients,
    )


def _addresses(gaussians: DeviceGaussians) -> tuple[int, int, int]:
    return gaussians.position, gaussians.cholesky, gaussians.color


def _prefixed(prefix: str, gaussians: DeviceGaussians) -> dict[str, int]:
    names = (f"{prefix}{name}" for name in ("position", "cholesky", "color"))
    return dict(zip(names, _addresses(gaussians), strict=True))


def _parts(gop: Gop) -> list[np.ndarray]:
    return [np.ascontiguousarray(getattr(gop, name), np.float32) for name in GOP_ARRAYS]


def _output(window: Window, dtype: type, out: np.ndarray | None) -> np.ndarray:
    check_window(window, 0)
    shape = (window.height, window.width, 3)
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise CoreError(f"an output of shape {out.shape} and type {out.dtype} for {window}")
    return out


@functools.cache
def rasterizer(index: int = 0) -> CudaGaussians:
    """The process's own on GPU `index`. Raises CoreError ("no CUDA here: ...") without it."""
    return CudaGaussians(open_device(index))
