"""How much memory this process holds, without further packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def resident_bytes(others: Sequence[int] = ()) -> int | None:
    """Bytes of memory that this process and others of ours, by their ids, hold now; of this one
    alone where the system does not tell about others, None where it says nothing.

    Libraries that several of them have loaded count several times.
    """
    try:
        return _resident("self") + sum(map(_resident, others))
    except (OSError, ValueError, IndexError):
        return peak_bytes()


def _resident(process: int | str) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        if process == "self":
            raise
        return 0  # it has ended
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int | None:
    """The most memory this process has held, bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    # In KiB on Linux, in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def gigabytes(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / 2**30:.2f} GB"
