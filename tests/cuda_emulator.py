"""A CUDA device made of numpy arrays and the kernels compiled for the CPU (cuda/gpu/emulate).

Lazier than any GPU: queued copies and kernels run when somebody waits for them, and not a step
further. Whoever reads a result too early, or changes an input too early, sees it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from peel4d.engine.render.cuda_device import OutOfDeviceMemory

GPU = Path(__file__).resolve().parents[1] / "cuda" / "gpu"
COMPILER = shutil.which("g++") or shutil.which("clang++")
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-Wno-unknown-pragmas"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g"]


def build(folder: Path, *, gpu: Path = GPU) -> Path:
    """Compile the emulator with the kernels, a few seconds.

    With $PEEL4D_SANITIZE under AddressSanitizer and UBSan, see cuda/setup.py. gpu: of a changed
    copy of cuda/.
    """
    target = folder / "libpeel4d_emulated.so"
    flags = FLAGS + (SANITIZE if os.environ.get("PEEL4D_SANITIZE") else [])
    source = str(gpu / "emulate" / "emulate.cpp")
    subprocess.run([COMPILER, *flags, source, "-o", str(target)], check=True)
    return target


class EmulatedEvent:
    def __init__(self, device: EmulatedDevice):
        self._device = device
        self.mark: tuple[object, int] | None = None  # stream, operations before it

    def record(self, stream: object) -> None:
        self.mark = (stream, self._device.queued[stream])

    def synchronize(self) -> None:
        self._device.reach(self.mark)

    def time_since(self, earlier: EmulatedEvent) -> float:
        return 0.0


class EmulatedDevice:
    """A `Device`. limit: bytes after which allocations fail. seed: order of the threads. lazy:
    False for callers that do not wait, as torch, which knows the order of its streams."""

    name = "emulator"
    multiprocessors = 3

    def __init__(self, library: Path, *, limit: int = 1 << 32, seed: int = 0, lazy: bool = True):
        self._library = ctypes.CDLL(str(library))
        self._library.peel4d_emulate_error.restype = ctypes.c_char_p
        self.limit, self.seed, self._lazy = limit, seed, lazy
        self.blocks: dict[int, np.ndarray] = {}
        self.allocations = self.pinned_allocations = self.launches = 0
        self.most_used = 0
        self.log: list[str] = []  # kernels and copies, as they were queued
        self.queued: dict[object, int] = {None: 0}
        self.done: dict[object, int] = {None: 0}
        self._queues: dict[object, deque] = {None: deque()}
        self._active = 0

    @contextmanager
    def active(self):
        self._active += 1
        yield
        self._active -= 1

    @property
    def used(self) -> int:
        return sum(block.nbytes for block in self.blocks.values())

    def allocate(self, nbytes: int) -> int:
        assert self._active
        if self.used + nbytes > self.limit:
            raise OutOfDeviceMemory(f"{nbytes} bytes")
        memory = np.full(nbytes + 256, 0xCD, np.uint8)
        start = -memory.ctypes.data % 256
        block = memory[start : start + nbytes]
        self.blocks[block.ctypes.data] = block
        self.allocations += 1
        self.most_used = max(self.most_used, self.used)
        return block.ctypes.data

    def free(self, address: int) -> None:
        assert not any(self._queues.values()), "memory is freed that a queued operation may use"
        self.blocks.pop(address)[:] = 0xDD

    def pinned(self, nbytes: int) -> np.ndarray:
        self.pinned_allocations += 1
        return np.full(nbytes, 0xCD, np.uint8)

    def memory(self) -> tuple[int, int]:
        return self.limit - self.used, self.limit

    def stream(self) -> object:
        stream = object()
        self.queued[stream] = self.done[stream] = 0
        self._queues[stream] = deque()
        return stream

    def event(self, *, timing: bool = False) -> EmulatedEvent:
        return EmulatedEvent(self)

    def wait(self, stream: object, event: EmulatedEvent) -> None:
        mark = event.mark
        self._queue(stream, lambda: self.reach(mark))

    def clear(self, address: int, nbytes: int, stream: object) -> None:
        self.log.append("clear")
        self._queue(stream, lambda: self._view(address, nbytes).fill(0))

    def to_device(self, address: int, array: np.ndarray, stream: object) -> None:
        self.log.append("to_device")
        source = array.reshape(-1).view(np.uint8)
        self._queue(stream, lambda: np.copyto(self._view(address, source.nbytes), source))

    def to_host(self, array: np.ndarray, address: int, stream: object) -> None:
        self.log.append("to_host")
        target = array.reshape(-1).view(np.uint8)
        assert np.shares_memory(target, array)
        self._queue(stream, lambda: np.copyto(target, self._view(address, target.nbytes)))

    def launch(self, kernel, blocks, threads, arguments, stream, *, shared=0) -> None:
        assert self._active
        self.launches += 1
        self.log.append(kernel)
        parameters = bytes(arguments)
        self._queue(
            stream, lambda: self._run(kernel, blocks, threads, parameters, shared, self.seed)
        )

    def synchronize(self) -> None:
        for stream in self._queues:
            self.reach((stream, self.queued[stream]))

    def reach(self, mark: tuple[object, int] | None) -> None:
        """Run a stream up to a mark."""
        if mark is None:
            return
        stream, end = mark
        while self.done[stream] < end:
            self.done[stream] += 1
            self._queues[stream].popleft()()

    def _queue(self, stream: object, operation) -> None:
        self.queued[stream] += 1
        self._queues[stream].append(operation)
        if not self._lazy:
            self.synchronize()

    def _view(self, address: int, nbytes: int) -> np.ndarray:
        for start, block in self.blocks.items():
            if start <= address and address + nbytes <= start + block.nbytes:
                return block[address - start : address - start + nbytes]
        raise AssertionError(f"{nbytes} bytes at {address:#x} are not the device's")

    def _run(self, kernel, blocks, threads, parameters, shared, seed) -> None:
        code = self._library.peel4d_emulate_launch(
            kernel.encode(),
            blocks,
            threads,
            shared,
            parameters,
            ctypes.c_uint64(len(parameters)),
            seed,
        )
        assert code == 0, self._library.peel4d_emulate_error().decode()
