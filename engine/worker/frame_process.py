"""A process that trains frames for another one: `launch.py frames DIR`, started by `FramePool`.

It reads lines on stdin: "train SECONDS LABEL LABEL...", the time for a unit and its frames;
"preview", which asks for the points of the running frame; "cancel". It writes JSON objects on
stdout: "step" (unit, part, metrics), "unit" (unit, memory_bytes), "preview" (path, frame), and
"error" as every worker does.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ..progress import silent
from ..render.splats import Splats
from ..train.checkpoint import save_splats
from ..train.frames import Unit, train_unit
from ..train.plan import Folder, load_plan
from ..train.run import Run, limit_vram, open_run, training_device
from ..train.shared import shared_stage
from ..train.watch import Cancelled, Watch
from .memory import peak_bytes

Emit = Callable[..., None]


class Orders(Watch):
    """What the other process wants, and the `Watch` of the training that it wants."""

    def __init__(self, emit: Emit, preview: Path):
        self._emit = emit
        self._preview = preview
        self._units: queue.SimpleQueue[tuple[float, Unit] | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._preview_wanted = threading.Event()

    def hear(self, line: str) -> None:
        """One line of stdin; any thread."""
        word, *rest = line.split()
        if word == "train":
            self._units.put((float(rest[0]), tuple(map(int, rest[1:]))))
        elif word == "preview":
            self._preview_wanted.set()

    def cancel(self) -> None:
        self._cancelled.set()
        self._units.put(None)

    def next(self) -> tuple[float, Unit] | None:
        """Waits for the frames to train next, and how many seconds they may take; None when there
        is nothing more to do."""
        order = self._units.get()
        return None if self._cancelled.is_set() else order

    def check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def preview_due(self) -> bool:
        return self._preview_wanted.is_set()

    def preview(self, splats: Splats, frame: int, *, fps: float, up: Sequence[float] | None):
        self._preview_wanted.clear()
        save_splats(self._preview, splats)
        self._emit("preview", path=str(self._preview), frame=frame)


def serve(
    folder: Folder,
    orders: Orders,
    emit: Emit,
    *,
    max_memory: int,
    max_vram: int | None,
    device: str,
) -> None:
    """Train what is asked for until there is nothing more. Raises PeelError."""
    run: Run | None = None
    if max_vram is not None:
        limit_vram(max_vram)
    while (order := orders.next()) is not None:
        seconds, unit = order
        if run is None:  # what all frames share is there by now
            run = _open(folder, orders, max_memory, device)
        train_unit(
            run,
            unit,
            lambda part, metrics, unit=unit: emit("step", unit=unit, part=part, metrics=metrics),
            seconds=seconds,
        )
        emit("unit", unit=unit, memory_bytes=peak_bytes())


def _open(folder: Folder, orders: Orders, max_memory: int, device: str) -> Run:
    from ..capture.detect import open_capture

    plan = load_plan(folder)
    logging.disable(logging.WARNING)  # who started us has said it already
    try:
        run = open_run(
            plan,
            folder,
            open_capture(plan.capture, size=plan.size),
            max_memory=max_memory,
            device=training_device(device),
            progress=silent,
            watch=orders,
        )
        shared_stage(run, silent)
    finally:
        logging.disable(logging.NOTSET)
    return run


def preview_path(folder: Folder) -> Path:
    """Where this process leaves points for a preview."""
    return folder.root / f"preview-{os.getpid()}.safetensors"
