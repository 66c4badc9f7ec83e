"""One picture of Gaussians on the device: which kernels run, and with how much room.

How many overlaps of Gaussians and tiles a picture has is known on the device only. As with points
(`render/cuda_frame.py`) the room for them is taken beforehand, the number is read back beside the
picture, and where the room was too small it grows and the picture is made again.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ..errors import CoreError
from ..render import cuda_kernels as kernels
from ..render.cuda_device import Device
from ..render.cuda_memory import DeviceMemory
from ..render.window import Window

#: As the core on the CPU: pixels of a side and of a picture, Gaussians of a picture.
MOST_ACROSS, MOST_PIXELS, MOST_GAUSSIANS = 32767, 1 << 28, 1 << 24
#: The farthest that a window may begin from the picture's corner.
_MOST_SHIFT = 1 << 20
#: Overlaps with tiles of 16 x 16 pixels, four for one of the CPU's tiles; an overlap takes 16
#: bytes, and 32 more with derivatives.
MOST_OVERLAPS = 1 << 28
_FEWEST_OVERLAPS = 1 << 16
_STATE_BYTES = ctypes.sizeof(kernels.State)
_COUNTER_BYTES = 8


@dataclass(frozen=True)
class DeviceGaussians:
    """Contiguous float32 arrays on the device, or where their gradients shall go.

    Addresses of position (count, 2), cholesky (count, 3) and color (count, 3), see `Gaussians2D`.
    """

    count: int
    position: int
    cholesky: int
    color: int


@dataclass(frozen=True)
class Task:
    """What is to be made of Gaussians in a window; addresses on the device.

    rgb, picture: outputs (height, width, 3) of float32 and of 8 bits. d_rgb: a derivative of the
    first. target: the first pixel of the window in an 8-bit picture whose rows are `stride` bytes
    apart; error: of a float32 for the mean square. gradients: where they go.
    """

    kernel: str
    gaussians: DeviceGaussians
    window: Window
    rgb: int | None = None
    picture: int | None = None
    d_rgb: int | None = None
    target: int | None = None
    stride: int = 0
    error: int | None = None
    gradients: DeviceGaussians | None = None


def check_window(window: Window, count: int) -> None:
    """Raise CoreError for what the core on the CPU refuses, too."""
    sides = (window.width, window.height)
    shift = max(abs(window.x), abs(window.y))
    if min(sides) < 1 or max(sides) > MOST_ACROSS or shift > _MOST_SHIFT:
        raise CoreError(f"there is no picture of {window}")
    if window.width * window.height > MOST_PIXELS or count > MOST_GAUSSIANS:
        raise CoreError(
            f"{count:,} Gaussians on {window.width} x {window.height} pixels are too many",
            hint=f"At most {MOST_GAUSSIANS:,} and {MOST_PIXELS:,} pixels",
        )


class GaussianQueue:
    """Runs tasks; owns the scratch memory that they share. count_stream: for reading back how many
    overlaps there are, beside the picture."""

    def __init__(self, device: Device, memory: DeviceMemory, count_stream: object):
        self._device, self._memory, self._count_stream = device, memory, count_stream
        self._allocated, self._counted, self._done = (device.event() for _ in range(3))
        self._state = device.pinned(_STATE_BYTES)
        self._last_stream: object = self
        self._last_overlaps = 0

    def run(self, task: Task, stream: object) -> None:
        """Queue a task on `stream`, and wait until the room was seen to suffice.

        That is known after the first kernels; nothing waits for the picture. Raises CoreError.
        """
        check_window(task.window, task.gaussians.count)
        arguments = self._arguments(task)
        needed = max(_FEWEST_OVERLAPS, 4 * task.gaussians.count, self._last_overlaps)
        while True:
            self._make_room(arguments, needed, derivatives=task.gradients is not None)
            self._enqueue(task, arguments, stream)
            self._counted.synchronize()
            needed = kernels.State.from_buffer_copy(self._state).overlaps
            if needed <= arguments.frame.lists.capacity:
                self._last_overlaps = needed
                return
            if needed > MOST_OVERLAPS:
                raise CoreError(
                    f"the picture has {needed:,} overlaps of Gaussians and tiles",
                    hint=f"At most {MOST_OVERLAPS:,}: draw fewer or smaller Gaussians",
                )

    def _arguments(self, task: Task) -> kernels.GaussianArguments:
        """Everything but the room for overlaps."""
        memory, window, gaussians = self._memory, task.window, task.gaussians
        tiles_x, tiles_y = (-(-side // kernels.TILE) for side in (window.width, window.height))
        tiles, count = tiles_x * tiles_y, gaussians.count
        # State and the counter of partial sums are cleared together with the tiles' counts.
        head = _STATE_BYTES + _COUNTER_BYTES
        state = memory.reserve("tiles", head + (4 * 4 + 8) * tiles)
        counts, starts, cursors, large, errors = (state + head + 4 * tiles * i for i in range(5))
        frame = kernels.Frame(
            width=window.width,
            height=window.height,
            tiles_x=tiles_x,
            tiles_y=tiles_y,
            samples=1,
            tile_end=tiles,
            point_count=count,
            state=state,
            records=memory.reserve("records", count * kernels.RECORD_BYTES),
            splats=memory.reserve("gaussians", count * kernels.SPLAT_BYTES),
            lists=kernels.Lists(counts, starts, cursors, 0),
            large_tiles=large,
        )
        arguments = kernels.GaussianArguments(
            frame=frame,
            position=gaussians.position,
            cholesky=gaussians.cholesky,
            color=gaussians.color,
            window_x=window.x,
            window_y=window.y,
            rgb=task.rgb,
            bytes=task.picture,
            d_rgb=task.d_rgb,
            target=task.target,
            stride=task.stride,
            partial_count=state + _STATE_BYTES,
            errors=errors,
            error=task.error,
        )
        if task.gradients is not None:
            arguments.d_position = task.gradients.position
            arguments.d_cholesky = task.gradients.cholesky
            arguments.d_color = task.gradients.color
        return arguments

    def _make_room(
        self, arguments: kernels.GaussianArguments, overlaps: int, *, derivatives: bool
    ) -> None:
        frame, memory, entry = arguments.frame, self._memory, kernels.ENTRY_BYTES
        # Each entry has a second place, for sorting.
        frame.entries = memory.reserve("overlaps", 2 * entry * overlaps)
        frame.lists.capacity = min(memory.nbytes("overlaps") // (2 * entry), MOST_OVERLAPS)
        if derivatives:
            nbytes = 4 * kernels.GAUSSIAN_SUMS
            arguments.partials = memory.reserve("partial sums", nbytes * overlaps)
            room = memory.nbytes("partial sums") // nbytes
            frame.lists.capacity = min(frame.lists.capacity, room)
        frame.spare = frame.entries + entry * frame.lists.capacity

    def _enqueue(self, task: Task, arguments: kernels.GaussianArguments, stream: object) -> None:
        device, frame = self._device, arguments.frame
        if self._last_stream is not stream and self._last_stream is not self:
            device.wait(stream, self._done)
        self._last_stream = stream
        tiles, count = frame.tile_end, frame.point_count
        device.clear(frame.state, _STATE_BYTES + _COUNTER_BYTES + 4 * tiles, stream)
        self._launch("gaussians_prepare", count, arguments, stream)
        shared = kernels.FrameArguments(frame)
        self._launch("allocate", tiles, shared, stream)
        self._allocated.record(stream)
        device.wait(self._count_stream, self._allocated)
        device.to_host(self._state, frame.state, self._count_stream)
        self._counted.record(self._count_stream)
        if count:
            self._launch("scatter_points", count, shared, stream)
            blocks = device.multiprocessors
            device.launch("sort_large", blocks, kernels.LARGE_THREADS, shared, stream)
        device.launch(task.kernel, tiles, kernels.TILE_THREADS, arguments, stream)
        if task.gradients is not None:
            blocks = -(-count // kernels.WARPS_PER_TILE) + 1
            device.launch("gaussians_chain", blocks, kernels.TILE_THREADS, arguments, stream)
        self._done.record(stream)

    def _launch(self, kernel: str, items: int, arguments: ctypes.Structure, stream: object) -> None:
        if items > 0:
            blocks = -(-items // kernels.TILE_THREADS)
            self._device.launch(kernel, blocks, kernels.TILE_THREADS, arguments, stream)
