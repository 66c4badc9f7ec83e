"""How a worker hears from the process that started it, and ends when that one is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

#: Seconds that are left to save a checkpoint when the parent has gone.
ORPHAN_SECONDS = 8.0
#: Exit code of a worker whose parent has gone.
ORPHANED = 3
_PR_SET_PDEATHSIG = 1


def die_with(parent: int | None) -> None:
    """Ask the kernel to kill this process as soon as its parent has died, even if it is stopped or
    stuck. Linux only; elsewhere `listen` notices the end of stdin.

    parent: process id of the one that starts us; if it is gone already, so are we.
    """
    if parent is None or not sys.platform.startswith("linux"):
        return
    # musl and old systems have no prctl here; the end of stdin still counts.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(ORPHANED)


def listen(cancel: Callable[[], None], hear: Callable[[str], None] = lambda _line: None) -> None:
    """Read stdin on a thread: the line "cancel" calls `cancel`, so does its end, and then the
    process is over in ORPHAN_SECONDS at the latest. Other lines go to `hear`."""
    threading.Thread(target=_listen, args=(cancel, hear), name="stdin", daemon=True).start()


def _listen(cancel: Callable[[], None], hear: Callable[[str], None]) -> None:
    # Not sys.stdin: a thread that waits in its lock would keep the interpreter from ending.
    pending = b""
    while True:
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        if not data:
            break
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").strip()
            if text == "cancel":
                cancel()
            elif text:
                hear(text)
    cancel()
    time.sleep(ORPHAN_SECONDS)
    os._exit(ORPHANED)
