"""Arrays of the host in device memory: clips and meshes, uploaded once per object.

Points travel as they are stored: half floats and codes are decoded by the kernels. An upload runs
on a stream of its own, so that the next frame of a clip arrives while this one is drawn.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from ctypes import c_double
from dataclasses import dataclass

import numpy as np

from . import core
from .core_library import CArray, CClip, CMesh
from .cuda_device import Device, Event, OutOfDeviceMemory
from .cuda_memory import Block, DeviceMemory
from .splats import SH_COUNTS, PackedSplats, Quantized, Splats
from .triangles import Triangles

_ALIGNMENT = 256
_STAGES = 3  # page-locked buffers in turn


@dataclass(eq=False)
class Upload:
    """Arrays on the device. addresses: in the order of the arrays; ready: behind the copy."""

    owner: weakref.ref
    block: Block
    addresses: list[int]
    ready: Event


@dataclass(eq=False)
class _Stage:
    """Page-locked memory on the way to the device; free: behind its last copy."""

    memory: np.ndarray
    free: Event


class Uploads:
    """What is on the device, by the identity of the object that it came from.

    The objects are taken to be immutable. Their memory is reused when they are gone, or when
    newer ones need it.
    """

    def __init__(self, device: Device, memory: DeviceMemory, stream: object):
        self._device = device
        self._memory = memory
        self._stream = stream
        self._uploads: OrderedDict[int, Upload] = OrderedDict()
        self._gone: deque[int] = deque()  # filled by the garbage collector, in any thread
        self._stages: list[_Stage] = []
        self._next_stage = 0

    def get(self, owner: object, parts: Callable[[], Sequence[np.ndarray]]) -> Upload:
        """The arrays of `owner` on the device; parts() gives them if they are not there yet.

        Returns before the copy is done. Raises DeviceMemoryError.
        """
        self._collect()
        key = id(owner)
        upload = self._uploads.get(key)
        if upload is None:
            upload = self._copy(owner, parts())
            self._uploads[key] = upload
        self._uploads.move_to_end(key)
        return upload

    def trim(self, keep: int) -> None:
        """Forget all but the newest uploads."""
        self._collect()
        while len(self._uploads) > keep:
            _, upload = self._uploads.popitem(last=False)
            self._memory.give(upload.block)

    def clear(self) -> None:
        """Forget everything."""
        for upload in self._uploads.values():
            self._memory.give(upload.block)
        self._uploads.clear()

    def _collect(self) -> None:
        while self._gone:
            key = self._gone.popleft()
            upload = self._uploads.get(key)
            if upload is not None and upload.owner() is None:  # not a new object at its address
                self._memory.give(self._uploads.pop(key).block)

    def _copy(self, owner: object, parts: Sequence[np.ndarray]) -> Upload:
        offsets, nbytes = [], 0
        for part in parts:
            offsets.append(nbytes)
            nbytes += -(-part.nbytes // _ALIGNMENT) * _ALIGNMENT
        nbytes = max(nbytes, _ALIGNMENT)
        # Collected again: the owner's predecessor may just have gone, and its block fits best.
        self._collect()
        block = self._memory.take("a frame of points", nbytes)
        stage = self._stage(nbytes)
        for part, offset in zip(parts, offsets, strict=True):
            target = stage.memory[offset : offset + part.nbytes].view(part.dtype)
            np.copyto(target.reshape(part.shape), part)
        if block.used_until is not None:
            self._device.wait(self._stream, block.used_until)
        self._device.to_device(block.address, stage.memory[:nbytes], self._stream)
        stage.free.record(self._stream)
        ready = self._device.event()
        ready.record(self._stream)
        key = id(owner)
        reference = weakref.ref(owner, lambda _, gone=self._gone: gone.append(key))
        return Upload(reference, block, [block.address + offset for offset in offsets], ready)

    def _stage(self, nbytes: int) -> _Stage:
        """Page-locked memory of at least nbytes that no copy reads any more."""
        if len(self._stages) < _STAGES:
            self._stages.append(_Stage(self._pinned(nbytes), self._device.event()))
            return self._stages[-1]
        stage = self._stages[self._next_stage]
        self._next_stage = (self._next_stage + 1) % _STAGES
        stage.free.synchronize()
        if len(stage.memory) < nbytes:
            stage.memory = self._pinned(nbytes)
        return stage

    def _pinned(self, nbytes: int) -> np.ndarray:
        nbytes += nbytes // 4
        try:
            return self._device.pinned(nbytes)
        except OutOfDeviceMemory:  # slower, but it works
            return np.empty(nbytes, np.uint8)


def splat_parts(splats: Splats | PackedSplats) -> list[np.ndarray]:
    """The arrays of a frame of points, in the order that `splat_struct` expects."""
    parts: list[np.ndarray] = []
    for attribute in (splats.position, splats.radius, splats.density, splats.sh):
        if isinstance(attribute, Quantized):
            parts.append(attribute.codes.T)  # planes: neighbouring threads read neighbouring codes
            if attribute.table is not None:
                parts.append(np.asarray(attribute.table, np.float32))
        else:
            parts.append(np.asarray(attribute))
    return parts


def splat_struct(
    clip: core.PlacedClip, addresses: Sequence[int], keep_alive: list[np.ndarray]
) -> CClip:
    """The struct of a clip whose arrays are on the device; it points into `keep_alive`, too."""
    splats, remaining = clip.splats, iter(addresses)
    attributes = (splats.position, splats.radius, splats.density, splats.sh)
    position, radius, density, color = (
        _array_struct(attribute, remaining, keep_alive) for attribute in attributes
    )
    return CClip(
        sh_count=SH_COUNTS[splats.sh_degree],
        id=clip.id,
        count=len(splats),
        position=position,
        radius=radius,
        density=density,
        color=color,
        matrix=(c_double * 12)(*np.asarray(clip.matrix, np.float64)[:3].ravel()),
        radius_scale=clip.radius_scale,
        opacity=clip.opacity,
        eye=(c_double * 3)(*clip.eye),
    )


def _array_struct(attribute, addresses, keep_alive: list[np.ndarray]) -> CArray:
    data = next(addresses)
    if not isinstance(attribute, Quantized):
        return plain_array(data, attribute.size // max(len(attribute), 1), attribute.dtype)
    codes = attribute.codes
    struct = CArray(
        type=core.TYPES[codes.dtype], data=data, point_stride=1, component_stride=len(codes)
    )
    if attribute.table is not None:
        struct.table, struct.table_size = next(addresses), len(attribute.table)
        return struct
    for name in ("step", "low", "high"):
        numbers = np.ascontiguousarray(getattr(attribute, name), np.float64)
        keep_alive.append(numbers)
        setattr(struct, name, core.pointer(numbers))
    return struct


def plain_array(address: int, components: int, dtype: np.dtype | str = "f4") -> CArray:
    """The struct of a contiguous array (N, components) of floats on the device."""
    return CArray(
        type=core.TYPES[np.dtype(dtype)],
        data=address,
        point_stride=components,
        component_stride=1,
    )


def triangle_parts(triangles: Triangles) -> list[np.ndarray]:
    """The arrays of triangles, in the order that `triangle_struct` expects."""
    return [
        triangles.position,
        triangles.index,
        triangles.color,
        triangles.holdout,
        triangles.id,
    ]


def triangle_struct(triangles: Triangles, addresses: Sequence[int]) -> CMesh:
    """The struct of triangles whose arrays are on the device."""
    position, index, color, holdout, number = addresses
    return CMesh(
        vertex_count=len(triangles.position),
        count=len(triangles.index),
        position=position,
        index=index,
        color=color,
        holdout=holdout,
        id=number,
    )
