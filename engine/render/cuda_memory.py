"""The device memory of a renderer: bounded, reused, and never taken from the device in a frame that
is like the one before."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import CoreError
from .cuda_device import Device, Event, OutOfDeviceMemory

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_ROUNDING = 1 << 16


class DeviceMemoryError(CoreError):
    """There is no room on the device, with numbers. The renderer goes on working."""


@dataclass(eq=False)
class Block:
    """A piece of the pool. used_until: a mark behind the last kernel that read it."""

    address: int
    nbytes: int
    used_until: Event | None = None


@dataclass(eq=False)
class DeviceMemory:
    """Named buffers, which grow and stay, and a pool of blocks.

    limit: bytes that may be in use, None: what the device has. relieve: called when memory is
    short, gives blocks back to the pool. Then buffers go that this frame has not reserved, too.
    """

    device: Device
    limit: int | None = None
    relieve: Callable[[], None] = lambda: None
    used: int = 0
    _buffers: dict[str, Block] = field(default_factory=dict)
    _free: list[Block] = field(default_factory=list)
    _reserved: set[str] = field(default_factory=set)

    def begin_frame(self) -> None:
        """From here on a buffer is safe from being freed once it was reserved."""
        self._reserved.clear()

    def reserve(self, name: str, nbytes: int) -> int:
        """Address of the buffer `name`, at least nbytes long; its contents are lost when it grows.

        Raises DeviceMemoryError.
        """
        self._reserved.add(name)
        buffer = self._buffers.get(name)
        if buffer is not None and buffer.nbytes >= nbytes:
            return buffer.address
        self.release(name)
        generous = _round_up(nbytes + nbytes // 4)
        try:
            if self.limit is not None and self.used + generous > self.limit:
                generous = nbytes
            self._buffers[name] = self._allocate(name, generous)
        except DeviceMemoryError:
            if generous == nbytes:
                raise
            self._buffers[name] = self._allocate(name, nbytes)
        return self._buffers[name].address

    def nbytes(self, name: str) -> int:
        """Size of a buffer, 0 without one."""
        return self._buffers[name].nbytes if name in self._buffers else 0

    def release(self, name: str) -> None:
        """Free a buffer, when everything that was queued is done with it."""
        buffer = self._buffers.pop(name, None)
        if buffer is not None:
            self.device.synchronize()
            self._discard(buffer)

    def take(self, what: str, nbytes: int) -> Block:
        """A block of the pool of at least nbytes. Raises DeviceMemoryError."""
        size = _size_class(nbytes)
        fitting = [block for block in self._free if size <= block.nbytes <= 2 * size]
        if fitting:
            block = min(fitting, key=lambda block: block.nbytes)
            self._free.remove(block)
            return block
        return self._allocate(what, size)

    def give(self, block: Block) -> None:
        """Put a block back into the pool."""
        self._free.append(block)

    def close(self) -> None:
        """Free everything."""
        for name in list(self._buffers):
            self.release(name)
        self._empty_pool()

    def _allocate(self, what: str, nbytes: int) -> Block:
        for attempt in range(2):
            if self.limit is None or self.used + nbytes <= self.limit:
                try:
                    address = self.device.allocate(nbytes)
                except OutOfDeviceMemory:
                    pass
                else:
                    self.used += nbytes
                    return Block(address, nbytes)
            if attempt == 0:
                self.relieve()
                self._empty_pool()
                for name in self._buffers.keys() - self._reserved:
                    self.release(name)
        raise self.error(what, nbytes)

    def error(self, what: str, nbytes: int) -> DeviceMemoryError:
        """What to raise when nbytes for `what` are not to be had."""
        free, total = self.device.memory()
        limit = "" if self.limit is None else f" of {_mib(self.limit)} allowed"
        return DeviceMemoryError(
            f"no GPU memory for {what}: {_mib(nbytes)} needed, {_mib(self.used)}{limit} in use, "
            f"{_mib(free)} of {_mib(total)} free on the device",
            hint="Use a smaller picture or fewer points, or raise --max-vram if it is set",
        )

    def _empty_pool(self) -> None:
        if self._free:
            self.device.synchronize()
        for block in self._free:
            self._discard(block)
        self._free.clear()

    def _discard(self, block: Block) -> None:
        self.device.free(block.address)
        self.used -= block.nbytes


def parse_size(text: str) -> int:
    """Bytes of "8G", "500M", "1.5G" or "1000000". Raises CoreError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise CoreError(f"{text!r} is no amount of memory", hint="Write 8G, 500M or a number")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def limit_from_environment() -> int | None:
    """$PEEL4D_MAX_VRAM in bytes, None without it."""
    text = os.environ.get("PEEL4D_MAX_VRAM")
    return parse_size(text) if text else None


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):,.1f} MiB"


def _round_up(nbytes: int) -> int:
    return -(-max(nbytes, 1) // _ROUNDING) * _ROUNDING


def _size_class(nbytes: int) -> int:
    """Sizes that differ a little share a class, so that the frames of a clip reuse their blocks."""
    step = max(_ROUNDING, 1 << max(nbytes.bit_length() - 3, 0))
    return -(-max(nbytes, 1) // step) * step
