"""What the worker does beside training: cancel, previews, heartbeats and the memory limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..clip.writer import write_clip
from ..errors import PeelError
from ..render.settings import PeelSettings
from ..render.splats import Splats
from ..train.watch import Cancelled, Watch
from .faults import OutOfMemory, out_of_memory
from .memory import gigabytes, resident_bytes

HEARTBEAT_SECONDS = 2.0
PREVIEW_SECONDS = 5.0
#: Points of a preview; of more, every n-th is shown, larger.
PREVIEW_POINTS = 150_000

Emit = Callable[..., None]


class Supervision(Watch):
    """The `Watch` of a worker. Thread-safe.

    emit(event, **values): where events go. preview_path: file of the previews, or None.
    memory_limit: bytes that the process may hold, or None.
    """

    def __init__(
        self,
        emit: Emit,
        *,
        preview_path: Path | None = None,
        memory_limit: int | None = None,
        preview_seconds: float = PREVIEW_SECONDS,
    ):
        self._emit = emit
        self._preview_path = preview_path
        self._memory_limit = memory_limit
        self._cancelled = threading.Event()
        self._excess: OutOfMemory | None = None
        self._pause = preview_seconds
        self._next_preview = 0.0
        self._others: Sequence[int] = ()

    def cancel(self) -> None:
        self._cancelled.set()

    def check(self) -> None:
        if self._excess is not None:
            raise self._excess
        if self._cancelled.is_set():
            raise Cancelled

    def preview_due(self) -> bool:
        return self._preview_path is not None and time.monotonic() >= self._next_preview

    def preview(self, splats: Splats, frame: int, *, fps: float, up: Sequence[float] | None):
        """Write the preview and say so. One that cannot be written ends nothing but previews."""
        begun = time.monotonic()
        try:
            write_clip(
                self._preview_path,
                [thinned(splats, PREVIEW_POINTS)],
                fps=fps,
                settings=PeelSettings(),
                provenance={"stage": "preview"},
                first_frame=frame,
                up=up,
            )
        except PeelError as error:
            self._preview_path = None
            self._emit("warning", message=f"no more previews: {error}")
            return
        self._emit("preview", path=str(self._preview_path), frame=frame, points=len(splats))
        # However slow the disk is, previews take no more than a twentieth of the time.
        now = time.monotonic()
        self._next_preview = now + max(self._pause, 20 * (now - begun))

    def accompany(self, pids: Sequence[int]) -> None:
        self._others = tuple(pids)

    def start_heartbeat(self) -> None:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        while True:
            held = resident_bytes(self._others)
            self._emit("heartbeat", memory_bytes=held)
            limit = self._memory_limit
            if limit is not None and held is not None and held > limit and not self._excess:
                self._excess = out_of_memory(
                    f"the limit of {gigabytes(limit)} is reached, in use are {gigabytes(held)}"
                )
            time.sleep(HEARTBEAT_SECONDS)


def thinned(splats: Splats, most: int) -> Splats:
    """At most `most` of the points, evenly left out, the others as much larger as closes the gaps
    on a surface."""
    step = -(-len(splats) // most)
    if step <= 1:
        return splats
    return Splats(
        splats.position[::step],
        splats.radius[::step] * np.float32(step**0.5),
        splats.density[::step],
        splats.sh[::step],
    )
