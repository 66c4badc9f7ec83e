"""The machine: what benchmarks say of it, its cores, and its memory."""

from __future__ import annotations

import ctypes
import importlib.metadata
import multiprocessing
import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from .render.core_library import build_info

_R = TypeVar("_R")

_MOST_THREADS = 8


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads() -> int:
    """Threads that this process may keep busy: $PEEL4D_THREADS, else its cores."""
    wanted = os.environ.get("PEEL4D_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else cores()


def in_threads(function: Callable[..., _R], *arguments: Iterable) -> list[_R]:
    """`map`, for functions that leave Python's lock alone most of the time, as numpy and OpenCV do.

    Not in too many threads: what is done for a view may hold a hundred megabytes.
    """
    calls = list(zip(*arguments, strict=True))
    workers = min(threads(), _MOST_THREADS, len(calls))
    if workers < 2:
        return [function(*call) for call in calls]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda call: function(*call), calls))


def end_with_parent() -> None:
    """In a process of `multiprocessing`: be over as soon as the one that started it is, however it
    ended. Processes of a pool would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=wait, name="parent", daemon=True).start()


def machine_bytes() -> int | None:
    """Physical memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def machine() -> dict[str, object]:
    """Processor, cores, system and graphics card."""
    memory = machine_bytes()
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "system": platform.platform(),
        "gpu": _gpu(),
    }


def versions(*distributions: str) -> dict[str, str | None]:
    """Versions of Python, the splat core and these packages; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["core"] = build_info()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def release_memory() -> None:
    """Give memory that nobody uses back to the system, where the C library can (glibc)."""
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows
        ctypes.CDLL(None).malloc_trim(0)
