"""What the CUDA back end asks of a device, and NVIDIA's through pycuda.

Of pycuda only `pycuda.driver` is used and it is imported when a device is opened, so everything
else runs where there is no CUDA. The tests have a second implementation, which runs the kernels on
the CPU (tests/cuda_emulator.py).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import CoreError

#: NVIDIA's table of toolkits and drivers: what CUDA 13 builds run on.
DRIVER_NEEDED = "580"
CUDA_NEEDED = 13000
INSTALL_HINT = f"Needs an NVIDIA GPU (Turing or newer), its driver {DRIVER_NEEDED}+, and pycuda"


class OutOfDeviceMemory(Exception):
    """An allocation failed; the device goes on working."""


class Event(Protocol):
    """A mark in a stream."""

    def record(self, stream: object) -> None: ...
    def synchronize(self) -> None:
        """Wait on the host until everything before the mark is done."""

    def time_since(self, earlier: Event) -> float:
        """Milliseconds between two marks that have passed."""


class Device(Protocol):
    """Memory, streams and kernels. Addresses are integers; a stream of None is the default one.

    Every call happens inside `active()`. Copies and launches are queued: arrays must stay
    as they are until the stream has passed them.
    """

    name: str
    multiprocessors: int

    def active(self) -> AbstractContextManager[None]: ...
    def allocate(self, nbytes: int) -> int:
        """Raises OutOfDeviceMemory."""

    def free(self, address: int) -> None: ...
    def pinned(self, nbytes: int) -> np.ndarray:
        """Page-locked host memory, (nbytes,) uint8. Raises OutOfDeviceMemory."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""

    def stream(self) -> object: ...
    def event(self, *, timing: bool = False) -> Event: ...
    def wait(self, stream: object, event: Event) -> None:
        """Let `stream` wait for a mark in another one."""

    def clear(self, address: int, nbytes: int, stream: object) -> None:
        """Zeros."""

    def to_device(self, address: int, array: np.ndarray, stream: object) -> None: ...
    def to_host(self, array: np.ndarray, address: int, stream: object) -> None: ...
    def launch(
        self,
        kernel: str,
        blocks: int,
        threads: int,
        arguments: ctypes.Structure,
        stream: object,
        *,
        shared: int = 0,
    ) -> None:
        """Queue a kernel of cuda/gpu/kernels.cu; shared: bytes of dynamic shared memory."""

    def synchronize(self) -> None: ...


class PycudaDevice:
    """An NVIDIA GPU: its primary context, which torch and Blender share, and the core's fatbin."""

    def __init__(self, driver, index: int, fatbin: Path):
        self._driver = driver
        device = driver.Device(index)
        self.name = device.name()
        self.multiprocessors = device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT)
        self._context = device.retain_primary_context()
        with self.active():
            self._module = driver.module_from_buffer(fatbin.read_bytes())
        self._allocations: dict[int, object] = {}
        self._kernels: dict[str, object] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        except self._driver.Error as error:
            raise CoreError(f"the GPU stopped: {error}", hint=INSTALL_HINT) from error
        finally:
            self._driver.Context.pop()

    def allocate(self, nbytes: int) -> int:
        try:
            allocation = self._driver.mem_alloc(nbytes)
        except self._driver.MemoryError as error:
            raise OutOfDeviceMemory(str(error)) from None
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._allocations.pop(address).free()

    def pinned(self, nbytes: int) -> np.ndarray:
        try:
            return self._driver.pagelocked_empty(nbytes, np.uint8)
        except self._driver.MemoryError as error:
            raise OutOfDeviceMemory(str(error)) from None

    def memory(self) -> tuple[int, int]:
        return self._driver.mem_get_info()

    def stream(self) -> object:
        return self._driver.Stream(_NON_BLOCKING)

    def event(self, *, timing: bool = False) -> Event:
        flags = self._driver.event_flags
        return self._driver.Event(flags.DEFAULT if timing else flags.DISABLE_TIMING)

    def wait(self, stream: object, event: Event) -> None:
        if stream is None:  # pycuda has no object for the default stream
            event.synchronize()
        else:
            stream.wait_for_event(event)

    def clear(self, address: int, nbytes: int, stream: object) -> None:
        self._driver.memset_d8_async(address, 0, nbytes, stream)

    def to_device(self, address: int, array: np.ndarray, stream: object) -> None:
        self._driver.memcpy_htod_async(address, array, stream)

    def to_host(self, array: np.ndarray, address: int, stream: object) -> None:
        self._driver.memcpy_dtoh_async(array, address, stream)

    def launch(
        self,
        kernel: str,
        blocks: int,
        threads: int,
        arguments: ctypes.Structure,
        stream: object,
        *,
        shared: int = 0,
    ) -> None:
        function = self._kernels.get(kernel)
        if function is None:
            function = self._kernels[kernel] = self._module.get_function(kernel)
        # The struct itself: what Function.__call__ would pack from single arguments.
        function._launch_kernel((blocks, 1), (threads, 1, 1), arguments, shared, stream)

    def synchronize(self) -> None:
        self._driver.Context.synchronize()


#: CU_STREAM_NON_BLOCKING: does not wait for the default stream, which Blender or torch may use.
_NON_BLOCKING = 1


@functools.cache
def open_device(index: int = 0) -> PycudaDevice:
    """The GPU `index`. Raises CoreError ("no CUDA here: ...") where there is none."""
    fatbin = _fatbin()
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError as error:  # pycuda or libcuda is missing
        raise _no_cuda(f"pycuda.driver cannot be imported ({error})") from error
    try:
        driver.init()
        if driver.get_driver_version() < CUDA_NEEDED:
            version = driver.get_driver_version()
            raise _no_cuda(f"the driver is for CUDA {version // 1000}.{version % 1000 // 10}")
        return PycudaDevice(driver, index, fatbin)
    except driver.Error as error:
        raise _no_cuda(str(error)) from error


def _fatbin() -> Path:
    from .core_library import find_library  # the fatbin lies beside the library

    fatbin = find_library().with_name("peel4d.fatbin")
    if not fatbin.is_file():
        raise _no_cuda("the splat core was built without nvcc and has no peel4d.fatbin")
    return fatbin


def _no_cuda(why: str) -> CoreError:
    return CoreError(f"no CUDA here: {why}", hint=INSTALL_HINT)
