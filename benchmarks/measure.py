# SPDX-License-Identifier: GPL-3.0-or-later
"""What every benchmark shares: timing, and the JSON that is written."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from peel4d.engine.atomic import write_text
from peel4d.engine.errors import PeelError
from peel4d.engine.machine import machine, versions

#: Everything whose speed is compared.
_DISTRIBUTIONS = ("numpy", "torch", "pycuda", "moderngl", "gsplat")


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


def write_result(path: Path | None, rows: list[dict], **more: object) -> None:
    """The JSON of one benchmark: machine, versions, rows, and what the rows amount to."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine(), "versions": versions(*_DISTRIBUTIONS), "rows": rows, **more}
        write_text(path, json.dumps(result, indent=1) + "\n")


def reason(error: Exception) -> str:
    """One line that says why something was skipped."""
    text = str(error) if isinstance(error, PeelError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
