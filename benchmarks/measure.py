# SPDX-License-Identifier: GPL-3.0-or-later
"""What every benchmark shares: timing, where it ran, and the JSON that is written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from peel4d.engine.atomic import write_text
from peel4d.engine.errors import PeelError
from peel4d.engine.render.core import build_info

_DISTRIBUTIONS = ("numpy", "torch", "pycuda", "moderngl", "gsplat")


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def milliseconds(function: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    begun = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - begun)


def interleaved_ms(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    seconds: float = 15.0,
    block: int = 5,
) -> dict[str, list[float]]:
    """Times of every function, taken in turns: what else the machine does then hits all alike.

    A turn is `block` calls in a row after one that does not count (the caches are the other
    function's then). A function has had enough after `repeats` calls, or after `seconds` of its
    own once it has been called three times.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}

    def waiting(name: str) -> bool:
        taken = times[name]
        return len(taken) < repeats and (len(taken) < min(3, repeats) or sum(taken) < 1e3 * seconds)

    while names := [name for name in functions if waiting(name)]:
        for name in names:
            warm_up = milliseconds(functions[name])
            # Where one call takes longer than anything that a cold cache could add, it counts.
            if warm_up > 500 and times[name]:
                times[name].append(warm_up)
            for _ in range(block if warm_up < 500 else 1):
                if waiting(name):
                    times[name].append(milliseconds(functions[name]))
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """The keys of a row that say what was measured."""
    return {
        "median_ms": round(statistics.median(times), 4),
        "min_ms": round(min(times), 4),
        "runs": len(times),
    }


def percentiles(times: Sequence[float]) -> dict[str, float]:
    return {f"p{p}_ms": round(float(np.percentile(times, p)), 4) for p in (50, 95, 99)}


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Exponent s of time = c * size^s, the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def machine() -> dict[str, object]:
    """Processor, cores, system and graphics card."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "gpu": _gpu(),
    }


def versions() -> dict[str, str | None]:
    """Versions of everything whose speed is compared; null for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["core"] = build_info()
    return found


def write_result(path: Path | None, rows: list[dict], **more: object) -> None:
    """The JSON of one benchmark: machine, versions, rows, and what the rows amount to."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine(), "versions": versions(), "rows": rows, **more}
        write_text(path, json.dumps(result, indent=1) + "\n")


def reason(error: Exception) -> str:
    """One line that says why something was skipped."""
    text = str(error) if isinstance(error, PeelError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _gpu() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None
