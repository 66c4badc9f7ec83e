# SPDX-License-Identifier: GPL-3.0-or-later
"""The one thread that draws all viewports. No bpy."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

log = logging.getLogger(__name__)

#: The thread ends when nobody has wanted anything for so long.
IDLE_SECONDS = 10.0


class Drawable(Protocol):
    """A viewport as the thread sees it; both are called by the thread, `due` with its lock held."""

    def due(self) -> float | None:
        """When it wants to be drawn (time.monotonic), None: not at all."""

    def draw_next(self) -> None:
        """Draw its newest request. What it raises is logged."""


class RenderThread:
    """Draws whichever viewport has waited longest; each one draws its newest request only.

    One thread for all: the core uses every processor by itself.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._viewports: list[Drawable] = []  # who was drawn last is last
        self._thread: threading.Thread | None = None
        self._stop = False

    def notify(self, viewport: Drawable) -> None:
        """Its `due` has changed."""
        with self._changed:
            if viewport not in self._viewports:
                self._viewports.append(viewport)
            if self._thread is None:
                self._stop = False
                self._thread = threading.Thread(
                    target=self._run, name="peel4d-viewports", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def forget(self, viewport: Drawable) -> None:
        """It will not be drawn again, but may be being drawn right now."""
        with self._changed:
            if viewport in self._viewports:
                self._viewports.remove(viewport)

    def stop(self) -> None:
        """End the thread; waits for the picture that is being drawn."""
        with self._changed:
            self._stop = True
            self._viewports.clear()
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @property
    def running(self) -> bool:
        return self._thread is not None

    def _run(self) -> None:
        while True:
            with self._changed:
                viewport = self._next()
                if viewport is None:
                    self._thread = None
                    return
                self._viewports.remove(viewport)
                self._viewports.append(viewport)
            try:
                viewport.draw_next()
            except Exception:
                log.exception("drawing a viewport failed")

    def _next(self) -> Drawable | None:
        """Wait until a viewport is due; None: the thread is to end. The lock is held."""
        idle_since = time.monotonic()
        while not self._stop:
            now = time.monotonic()
            due = [(viewport.due(), viewport) for viewport in self._viewports]
            soonest = None
            for when, viewport in due:
                if when is None:
                    continue
                if when <= now:
                    return viewport
                soonest = when if soonest is None else min(soonest, when)
            if soonest is None:
                soonest = idle_since + IDLE_SECONDS
                if soonest <= now:
                    return None
            self._changed.wait(soonest - now)
        return None
