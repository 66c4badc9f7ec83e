"""One frame on the device: which kernels run, and with how much room.

How many overlaps of points and tiles a picture has is known on the device only. The room for them
is taken beforehand; the frame runs without waiting for the host, and the number is read back while
it does. If the room was too small, it grows and the frame is repeated; where it cannot grow, the
picture is made of ranges of tiles, one after the other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from . import cuda_kernels as kernels
from .core_library import CCamera, CClip, CMesh, CSettings, check, library
from .cuda_device import Device
from .cuda_memory import DeviceMemory, DeviceMemoryError

_STATE_BYTES = ctypes.sizeof(kernels.State)
_FEWEST_OVERLAPS = 1 << 16
_MOST_OVERLAPS = (1 << 32) - 2  # places are 32-bit numbers
_FEWEST_TRIANGLE_OVERLAPS = 1 << 14


@dataclass(frozen=True, eq=False)
class DeviceScene:
    """What is to be drawn; the structs point into device memory. meshes: all in one, or None."""

    camera: CCamera
    settings: CSettings
    clips: Sequence[CClip]
    mesh: CMesh | None = None


@dataclass(frozen=True)
class PixelGradients:
    """Addresses of dL/drgba (H, W, 4) and dL/ddepth (H, W) or None."""

    d_rgba: int
    d_depth: int | None


@dataclass(eq=False)
class Job:
    """A frame that was queued. outputs: addresses by the names in peel4d_image."""

    scene: DeviceScene
    outputs: dict[str, int]
    stream: object
    keep: bool
    pixels: PixelGradients | None = None
    clips: list = field(default_factory=list)  # peel::Clip, opaque
    mesh: object = None  # peel::Mesh, opaque
    frame: kernels.Frame = None
    triangles: ctypes.Structure | None = None
    banded: bool = False


class FrameQueue:
    """Runs frames; owns the scratch memory that they share. count_stream: for reading back how many
    overlaps there are, beside the frame."""

    def __init__(self, device: Device, memory: DeviceMemory, count_stream: object):
        self._device = device
        self._memory = memory
        self._count_stream = count_stream
        self._allocated, self._counted, self._done = (device.event() for _ in range(3))
        self._state = device.pinned(_STATE_BYTES)
        self._last_stream: object = self
        self._banded = False  # the last frame did not fit at once
        self.last: Job | None = None  # the frame that the scratch memory holds

    def forward(
        self,
        scene: DeviceScene,
        outputs: dict[str, int],
        stream: object,
        *,
        keep: bool = False,
        pixels: PixelGradients | None = None,
    ) -> Job:
        """Queue a frame. keep: leave behind what `backward` needs. Raises CoreError."""
        job = Job(scene, outputs, stream, keep or pixels is not None, pixels)
        _prepare(job)
        self._reserve(job)
        self._enqueue(job)
        return job

    def settle(self, job: Job) -> None:
        """Wait until the room was seen to suffice, repeating the frame if it did not.

        Waits for the first kernels of the frame only. Raises DeviceMemoryError.
        """
        while not job.banded:
            self._counted.synchronize()
            state = kernels.State.from_buffer_copy(self._state)
            lists = job.frame.lists
            fits = state.overlaps <= lists.capacity
            if job.triangles is not None:
                fits &= state.triangle_overlaps <= job.triangles.lists.capacity
            if fits:
                return
            job.banded = not self._grow(job, state.overlaps, state.triangle_overlaps)
            self._enqueue(job)

    def backward(
        self,
        job: Job,
        pixels: PixelGradients,
        gradients: dict[str, int],
        stream: object,
    ) -> None:
        """Queue the derivatives of a picture of one clip: "position", "radius", "density" and
        "color" in `gradients` are filled. The frame runs again if another one came after it."""
        count = job.scene.clips[0].count
        if count == 0:
            return
        nbytes = count * kernels.PARTIALS * 4
        sums = self._memory.reserve("sums", nbytes)
        if self.last is job and not job.banded and job.stream is stream:
            self._device.clear(sums, nbytes, stream)
            self._backward_tiles(job, pixels, sums)
        else:
            self._memory.begin_frame()
            job = self.forward(job.scene, {}, stream, pixels=pixels)
            self.settle(job)
            sums = self._memory.reserve("sums", nbytes)
        arguments = kernels.backward_points_arguments()(clip=job.clips[0], sums=sums, **gradients)
        self._launch("backward_points", count, arguments, stream)
        self._done.record(stream)

    def _reserve(self, job: Job) -> None:
        """Scratch memory; for the overlaps, whose number is not known, by experience."""
        self.last = None
        memory, frame = self._memory, job.frame
        points, tiles = frame.point_count, frame.tiles_x * frame.tiles_y
        arrays = memory.reserve("tiles", _STATE_BYTES + 7 * 4 * tiles)
        frame.state = arrays
        counts, triangle_counts, starts, cursors, triangle_starts, triangle_cursors, large = (
            arrays + _STATE_BYTES + 4 * tiles * i for i in range(7)
        )
        frame.records = memory.reserve("records", points * kernels.RECORD_BYTES)
        frame.splats = memory.reserve("splats", points * kernels.SPLAT_BYTES)
        frame.clip_ids = memory.reserve("clip_ids", frame.clip_count * kernels.CLIP_ID_BYTES)
        frame.large_tiles = large
        frame.lists = kernels.Lists(counts, starts, cursors, 0)
        if job.pixels is not None:
            memory.reserve("sums", points * kernels.PARTIALS * 4)
        if job.triangles is not None:
            count = job.scene.mesh.count
            arguments = job.triangles
            arguments.screen = memory.reserve("screen", count * kernels.SCREEN_TRIANGLE_BYTES)
            arguments.records = memory.reserve("triangles", count * kernels.RECORD_BYTES)
            arguments.lists = kernels.Lists(triangle_counts, triangle_starts, triangle_cursors, 0)
        if not self._grow(job, max(_FEWEST_OVERLAPS, 2 * points + tiles), self._triangle_room(job)):
            self._banded = True
        job.banded = self._banded

    def _triangle_room(self, job: Job) -> int:
        if job.triangles is None:
            return 0
        tiles = job.frame.tiles_x * job.frame.tiles_y
        return max(_FEWEST_TRIANGLE_OVERLAPS, 2 * job.scene.mesh.count + 2 * tiles)

    def _grow(self, job: Job, overlaps: int, triangle_overlaps: int) -> bool:
        """Make room for so many overlaps, or else for as many as possible, which is False."""
        frame, size = job.frame, kernels.TRIANGLE_ENTRY_BYTES
        fits = True
        if job.triangles is not None:
            fits = self._grow_list("triangle overlaps", triangle_overlaps, size)
            nbytes = self._memory.nbytes("triangle overlaps")
            job.triangles.entries = self._memory.reserve("triangle overlaps", nbytes)
            job.triangles.lists.capacity = nbytes // size
        # Each entry has a second place, for sorting.
        fits &= self._grow_list("overlaps", overlaps, 2 * kernels.ENTRY_BYTES)
        nbytes = self._memory.nbytes("overlaps")
        frame.lists.capacity = min(nbytes // (2 * kernels.ENTRY_BYTES), _MOST_OVERLAPS)
        frame.entries = self._memory.reserve("overlaps", nbytes)
        frame.spare = frame.entries + frame.lists.capacity * kernels.ENTRY_BYTES
        return fits and overlaps <= _MOST_OVERLAPS

    def _grow_list(self, name: str, count: int, size: int) -> bool:
        if self._memory.nbytes(name) >= count * size:
            return True
        before = self._memory.nbytes(name)
        try:
            self._memory.reserve(name, count * size)
            return True
        except DeviceMemoryError:
            # Half of what was asked for, and again; at least what there was.
            while count * size > max(before, size):
                count //= 2
                try:
                    self._memory.reserve(name, max(count * size, before))
                    return False
                except DeviceMemoryError:
                    continue
            raise

    def _enqueue(self, job: Job) -> None:
        device, stream, frame = self._device, job.stream, job.frame
        if self._last_stream is not stream and self._last_stream is not self:
            device.wait(stream, self._done)
        self._last_stream = stream
        tiles = frame.tiles_x * frame.tiles_y
        frame.tile_begin, frame.tile_end = 0, tiles
        device.clear(frame.state, _STATE_BYTES + 2 * 4 * tiles, stream)
        arguments = kernels.project_arguments()(frame=frame)
        for number, (clip, prepared) in enumerate(zip(job.scene.clips, job.clips, strict=True)):
            arguments.clip, arguments.clip_number = prepared, number
            name = f"project_sh{clip.sh_count}" if clip.sh_count else "project_rgb"
            self._launch(name, clip.count, arguments, stream)
        if job.triangles is not None:
            job.triangles.frame = frame
            self._launch("triangles_project", job.scene.mesh.count, job.triangles, stream)
        if job.pixels is not None:
            nbytes = frame.point_count * kernels.PARTIALS * 4
            device.clear(self._memory.reserve("sums", nbytes), nbytes, stream)
        if job.banded:
            for begin, end in self._ranges(job):
                frame.tile_begin, frame.tile_end = begin, end
                device.clear(frame.state, _STATE_BYTES, stream)
                self._run_tiles(job)
        else:
            self._run_tiles(job, read_state=True)
        self._done.record(stream)
        self.last = job

    def _run_tiles(self, job: Job, *, read_state: bool = False) -> None:
        """From the counts of a range of tiles to its pixels, and to its sums of derivatives."""
        device, stream, frame = self._device, job.stream, job.frame
        tiles = frame.tile_end - frame.tile_begin
        arguments = kernels.FrameArguments(frame)
        self._launch("allocate", tiles, arguments, stream)
        if job.triangles is not None:
            job.triangles.frame = frame
            self._launch("triangles_allocate", tiles, job.triangles, stream)
        if read_state:
            self._allocated.record(stream)
            device.wait(self._count_stream, self._allocated)
            device.to_host(self._state, frame.state, self._count_stream)
            self._counted.record(self._count_stream)
        if frame.point_count:
            self._launch("scatter_points", frame.point_count, arguments, stream)
            blocks = device.multiprocessors
            device.launch("sort_large", blocks, kernels.LARGE_THREADS, arguments, stream)
        if job.triangles is not None:
            self._launch("triangles_scatter", job.scene.mesh.count, job.triangles, stream)
            device.launch("composite_mesh", tiles, kernels.TILE_THREADS, job.triangles, stream)
        else:
            device.launch("composite", tiles, kernels.TILE_THREADS, arguments, stream)
        if job.pixels is not None:
            sums = self._memory.reserve("sums", frame.point_count * kernels.PARTIALS * 4)
            self._backward_tiles(job, job.pixels, sums)

    def _backward_tiles(self, job: Job, pixels: PixelGradients, sums: int) -> None:
        frame = job.frame
        arguments = kernels.BackwardTilesArguments(frame, pixels.d_rgba, pixels.d_depth, sums)
        per_warp = kernels.WARP * kernels.LAYER_BYTES * frame.layers
        warps = 1
        while warps < 4 and 2 * warps * per_warp <= kernels.SHARED_LIMIT:
            warps *= 2
        blocks = (frame.tile_end - frame.tile_begin) * kernels.WARPS_PER_TILE // warps
        self._device.launch(
            "backward_tiles",
            blocks,
            warps * kernels.WARP,
            arguments,
            job.stream,
            shared=warps * per_warp,
        )

    def _ranges(self, job: Job) -> list[tuple[int, int]]:
        """Ranges of tiles whose overlaps have room. Waits for the device."""
        tiles = job.frame.tiles_x * job.frame.tiles_y
        counts = np.empty((2, tiles), np.uint32)
        self._device.to_host(counts.reshape(-1), job.frame.lists.counts, job.stream)
        self._device.synchronize()
        rooms = [job.frame.lists.capacity]
        rooms.append(job.triangles.lists.capacity if job.triangles is not None else 0)
        needed = counts.sum(axis=1, dtype=np.int64)
        most = counts.max(axis=1)
        if any(count > room for count, room in zip(most, rooms, strict=True)) and not self._grow(
            job, int(most[0]), int(most[1])
        ):
            self._banded = True
            raise self._memory.error(
                f"the {int(most[0]):,} points and {int(most[1]):,} triangles of one tile",
                int(most[0]) * 2 * kernels.ENTRY_BYTES
                + int(most[1]) * kernels.TRIANGLE_ENTRY_BYTES,
            )
        rooms[0] = job.frame.lists.capacity
        rooms[1] = job.triangles.lists.capacity if job.triangles is not None else 0
        self._banded = bool((needed > rooms).any())
        return split_tiles(counts, rooms)

    def _launch(self, kernel: str, items: int, arguments: ctypes.Structure, stream: object) -> None:
        if items > 0:
            blocks = -(-items // kernels.TILE_THREADS)
            self._device.launch(kernel, blocks, kernels.TILE_THREADS, arguments, stream)


def split_tiles(counts: np.ndarray, rooms: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges [begin, end) that cover all tiles, as few as possible, the counts (L, T) of each
    within rooms (L,)."""
    sums = np.concatenate(
        [np.zeros((len(counts), 1), np.int64), counts.cumsum(axis=1, dtype=np.int64)], axis=1
    )
    ranges = []
    begin, tiles = 0, counts.shape[1]
    while begin < tiles:
        ends = [
            np.searchsorted(total, total[begin] + room, side="right") - 1
            for total, room in zip(sums, rooms, strict=True)
        ]
        ranges.append((begin, int(min(ends))))
        begin = ranges[-1][1]
    return ranges


def _prepare(job: Job) -> None:
    """Let the core write the kernels' arguments."""
    scene = job.scene
    count = len(scene.clips)
    clips = (ctypes.c_uint64 * (kernels.clip_bytes() // 8) * max(count, 1))()
    mesh_arguments = kernels.mesh_arguments()() if scene.mesh is not None else None
    check(
        library().peel4d_prepare(
            scene.camera,
            scene.settings,
            (CClip * count)(*scene.clips),
            count,
            scene.mesh,
            clips,
            None
            if mesh_arguments is None
            else ctypes.addressof(mesh_arguments) + type(mesh_arguments).mesh.offset,
        )
    )
    job.clips = list(clips)[:count]
    job.triangles = mesh_arguments
    settings, samples = scene.settings, scene.settings.samples
    width, height = scene.camera.width * samples, scene.camera.height * samples
    job.frame = kernels.Frame(
        width=width,
        height=height,
        tiles_x=-(-width // kernels.TILE),
        tiles_y=-(-height // kernels.TILE),
        samples=samples,
        layers=settings.layers,
        min_transmittance=settings.min_transmittance,
        clip_count=count,
        point_count=sum(clip.count for clip in scene.clips),
        keep=int(job.keep),
        **job.outputs,
    )
