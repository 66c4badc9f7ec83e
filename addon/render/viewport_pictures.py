# SPDX-License-Identifier: GPL-3.0-or-later
"""The pictures of one viewport, drawn by the session's thread: the newest request wins, smaller
while the view moves, in full when it stands still."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from ...engine.errors import PeelError
from ...engine.machine import threads as available_threads
from ...engine.render.backend import Instance
from ...engine.render.settings import Rendered
from . import viewport_request
from .loading import decoded, load
from .pace import Pace, Rate
from .picture import Canvas, Quality
from .scene import ClipScene
from .session import Session
from .viewport_request import View

log = logging.getLogger(__name__)

#: A view that has not changed for so long stands still, seconds; at most so long where Blender
#: redraws, and so asks for new views, rarely.
STILL = 0.15
_LONGEST_STILL = 0.6
#: The part of a picture that shows anything is cut out where it is a smaller share of it.
_WORTH_CUTTING = 0.8


@dataclass(frozen=True, eq=False)
class Finished:
    """A picture and how it came about.

    rgba: the part of the picture that shows anything, place: its left, bottom, width and height as
    shares of the view's window. scale: of width and height. seconds: that it took, decoding
    included. fine: it is what the view looks like when it stands still.
    """

    picture: Rendered
    rgba: np.ndarray
    place: tuple[float, float, float, float]
    canvas: Canvas
    view: View
    scale: float
    quality: Quality
    seconds: float
    fine: bool


class Pictures:
    """Requests and pictures of one viewport, between its two threads.

    redraw: asks Blender, from any thread, to draw the viewport again. `want`, `shown` and `close`
    are the UI thread's, `due` and `draw_next` the drawing thread's.
    """

    def __init__(self, session: Session, redraw: Callable[[], None]) -> None:
        self._session = session
        self._redraw = redraw
        self._lock = threading.RLock()
        self._closed = False
        self._wanted: View | None = None
        self._changed = 0.0
        self._interval = 0.0  # between the requests of a moving view
        self._drawn: View | None = None  # the last one with a picture of any quality
        self._complete: View | None = None  # the last one with a picture that is final
        self._finished: Finished | None = None
        self._uploading: Finished | None = None
        self._free: list[Canvas] = []
        self._error: tuple[View, str] | None = None
        self.rate = Rate()
        # Of the drawing thread, but for the reference itself.
        self._loaded: tuple[ClipScene | None, list[Instance]] = (None, [])
        self._pace = Pace()

    # The UI thread.

    def want(self, wanted: View | None) -> None:
        """Make this the newest request; None: nothing is wanted."""
        with self._lock:
            if wanted is None:
                self._wanted = self._finished = None
                return
            if wanted.same_as(self._wanted):
                return
            self._wanted = wanted
            now = time.monotonic()
            if now - self._changed < _LONGEST_STILL:
                self._interval = max(now - self._changed, 0.8 * self._interval)
            else:
                self._interval = 0.0
            self._changed = now
        if not self._take_decoded(wanted):
            self._session.thread.notify(self)

    def _take_decoded(self, wanted: View) -> bool:
        """Whether the thread has nothing to do: Blender's graphics device draws, and the frames are
        there."""
        clips = wanted.subject.clips
        if wanted.quality.backend != "gl" or not decoded(clips):
            return False
        try:
            self._load(clips)
        except PeelError:
            return False  # the thread will tell
        with self._lock:
            self._drawn = self._complete = wanted
            self._error = self._finished = None
        return True

    @contextmanager
    def shown(self) -> Iterator[Finished | None]:
        """The newest picture; nothing is drawn on its canvas meanwhile."""
        with self._lock:
            finished = self._uploading = self._finished
        try:
            yield finished
        finally:
            with self._lock:
                self._uploading = None

    def error_of(self, wanted: View) -> str:
        """Why this cannot be drawn, or ""."""
        with self._lock:
            error = self._error
        return error[1] if error is not None and error[0].same_as(wanted) else ""

    @property
    def moving(self) -> bool:
        """Whether the request has changed just now."""
        with self._lock:
            return time.monotonic() < self._still_from

    @property
    def _still_from(self) -> float:
        return self._changed + min(max(STILL, 2.0 * self._interval), _LONGEST_STILL)

    @property
    def loaded(self) -> tuple[ClipScene | None, list[Instance]]:
        """What was decoded last, of which scene."""
        return self._loaded

    @property
    def wanted(self) -> View | None:
        """The newest request."""
        with self._lock:
            return self._wanted

    @property
    def is_complete(self) -> bool:
        """Whether the newest request has been drawn in full."""
        with self._lock:
            return self._wanted is not None and self._complete is self._wanted

    @property
    def finished(self) -> Finished | None:
        """The newest picture."""
        with self._lock:
            return self._finished

    def close(self) -> None:
        """Nothing is drawn any more: `redraw` is not called again."""
        with self._lock:
            self._closed = True
            self._wanted = self._finished = None
        self._session.thread.forget(self)

    # The drawing thread.

    def due(self) -> float | None:
        with self._lock:
            wanted = self._wanted
            if self._closed or wanted is None or self._complete is wanted:
                return None
            if self._error is not None and self._error[0] is wanted:
                return None
            return self._still_from if self._drawn is wanted else 0.0

    def draw_next(self) -> None:
        """Draw the newest request, small at first; in full when it stands still."""
        with self._lock:
            wanted = self._wanted
            if wanted is None or self._closed:
                return
            still = self._drawn is wanted
            last = self._finished
        try:
            if wanted.quality.backend == "gl":
                self._load(wanted.subject.clips)
                self._publish(wanted, None, complete=True)
            elif (
                still
                and last is not None
                and last.scale == 1.0
                and (last.view is wanted and _same_but_threads(last.quality, wanted.quality))
            ):
                self._publish(wanted, replace(last, fine=True), complete=True)
            else:
                self._draw_picture(wanted, still)
        except PeelError as error:
            self._fail(wanted, str(error))
        except Exception as error:
            log.exception("drawing a viewport failed")
            self._fail(wanted, f"internal error: {type(error).__name__}: {error}")

    def _draw_picture(self, wanted: View, still: bool) -> None:
        begin = time.perf_counter()
        instances = self._load(wanted.subject.clips)
        scale = 1.0 if still else self._pace.scale()
        quality = wanted.quality
        if not still:
            quality = Quality(1, quality.backend, moving_threads(quality.threads))
        with self._lock:
            canvas = self._free.pop() if self._free else Canvas()
        decoded = time.perf_counter()
        picture = viewport_request.peel_view(
            wanted,
            instances,
            scale,
            quality,
            canvas,
            # What is drawn small is soon ready and shows at least that something moves.
            (lambda: self._wanted is not wanted) if still else (lambda: False),
        )
        if picture is None:
            with self._lock:
                self._free.append(canvas)
            return
        rgba, place = cut_out(picture.rgba)
        end = time.perf_counter()
        if not still:
            self._pace.record(scale, end - decoded)
        seconds = end - begin
        self._publish(
            wanted,
            Finished(picture, rgba, place, canvas, wanted, scale, quality, seconds, fine=still),
            complete=still,
        )

    def _load(self, clips: ClipScene) -> list[Instance]:
        last, instances = self._loaded
        if last is not clips:
            instances = load(self._session, clips, None if last is None else last.time)
            self._loaded = (clips, instances)
        return instances

    def _publish(self, wanted: View, finished: Finished | None, complete: bool) -> None:
        with self._lock:
            if self._closed or self._wanted is None:
                return
            self._drawn = wanted
            if complete:
                self._complete = wanted
            self._error = None
            if finished is None:
                self._finished = None  # the graphics device keeps the picture
            else:
                if not finished.fine:
                    self.rate.count(time.monotonic())
                old, self._finished = self._finished, finished
                used = [one.canvas for one in (finished, self._uploading) if one is not None]
                if old is not None and old.canvas not in used:
                    self._free = [old.canvas]
            self._redraw()

    def _fail(self, wanted: View, text: str) -> None:
        with self._lock:
            if self._closed or self._wanted is not wanted:
                return
            self._error = (wanted, text)
            self._finished = None
            self._redraw()


def moving_threads(threads: int) -> int:
    """Of those of a still view, how many draw a moving one: one processor is left to Blender, whose
    own drawing would wait for it. 0: all of them."""
    available = available_threads()
    return max(min(threads or available, available - 1), 1)


def _same_but_threads(one: Quality, other: Quality) -> bool:
    """Whether they come to the same picture: the number of threads does not change a bit of it."""
    return replace(one, threads=0) == replace(other, threads=0)


def cut_out(rgba: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The smallest part of a picture (H, W, 4) that holds everything of it, contiguous; its left,
    bottom, width and height as shares of the picture. All of it where that saves little."""
    height, width = rgba.shape[:2]
    covered = rgba[..., 3] > 0
    rows = np.flatnonzero(covered.any(axis=1))
    columns = np.flatnonzero(covered.any(axis=0))
    if len(rows) == 0:
        return rgba[:1, :1], (0.0, 0.0, 1 / width, 1 / height)
    # One pixel more on every side: pictures are interpolated when they are shown larger.
    top, bottom = max(rows[0] - 1, 0), min(rows[-1] + 2, height)
    left, right = max(columns[0] - 1, 0), min(columns[-1] + 2, width)
    if (bottom - top) * (right - left) > _WORTH_CUTTING * height * width:
        return rgba, (0.0, 0.0, 1.0, 1.0)
    place = (left, height - bottom, right - left, bottom - top)
    size = (width, height, width, height)
    shares = tuple(float(at / whole) for at, whole in zip(place, size, strict=True))
    return np.ascontiguousarray(rgba[top:bottom, left:right]), shares
