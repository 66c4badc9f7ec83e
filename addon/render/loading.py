# SPDX-License-Identifier: GPL-3.0-or-later
"""Decoding the points that a viewport shows, and those that it will show next."""

from __future__ import annotations

import logging
import threading

from ...engine.errors import PeelError
from ...engine.render.backend import Instance
from .prefetch import prefetch, step_between
from .scene import ClipScene
from .session import Session

log = logging.getLogger(__name__)


def load(session: Session, clips: ClipScene, last_time: float | None) -> list[Instance]:
    """The points of a scene in their places; the frames after it are decoded in the background.

    last_time: the scene's frame that was shown before, None: nothing was. Raises ClipError.
    """
    instances = []
    for index, item in enumerate(clips.instances):
        for part in session.points(item):
            instances.append(Instance(part, item.matrix, item.opacity, index))
    prefetch(clips, step_between(last_time, clips.time))
    return instances


def decoded(clips: ClipScene) -> bool:
    """Whether `load` need not decode anything."""
    return all(one.reader.decoded(one.frame, static=one.background) for one in clips.instances)


class Loading:
    """The points of the newest scene that was asked for, decoded by the session's thread.

    `instances` and `close` are the UI thread's.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._wanted: ClipScene | None = None
        self._loaded: tuple[ClipScene | None, list[Instance]] = (None, [])
        self._error: PeelError | None = None

    def instances(self, clips: ClipScene) -> tuple[Instance, ...]:
        """The points in their places; those of the scene before while they are being decoded, see
        `busy`. Raises ClipError where that failed."""
        with self._lock:
            shown, instances = self._loaded
            if shown is not None and _same_points(shown, clips):
                self._wanted = None
                placed = [clips.instances[one.id] for one in instances]
                return tuple(
                    Instance(one.splats, at.matrix, at.opacity, one.id)
                    for one, at in zip(instances, placed, strict=True)
                )
            if decoded(clips):
                instances = load(self._session, clips, None if shown is None else shown.time)
                self._wanted, self._loaded = None, (clips, instances)
                return tuple(instances)
            wanted, error = self._wanted, self._error
            known = wanted is not None and _same_points(wanted, clips)
            if not known:
                self._wanted, self._error = clips, None
        if known and error is not None:
            raise error
        if not known:
            self._session.thread.notify(self)
        return tuple(instances)

    @property
    def busy(self) -> bool:
        """Whether points are on their way."""
        with self._lock:
            return self._wanted is not None and self._error is None

    def close(self) -> None:
        """Nothing is decoded any more."""
        self._session.thread.forget(self)
        with self._lock:
            self._wanted, self._loaded = None, (None, [])

    # The session's thread.

    def due(self) -> float | None:
        with self._lock:
            return None if self._wanted is None or self._error is not None else 0.0

    def draw_next(self) -> None:
        """Decode what is wanted."""
        with self._lock:
            wanted, (last, _) = self._wanted, self._loaded
        if wanted is None:
            return
        error = None
        try:
            instances = load(self._session, wanted, None if last is None else last.time)
        except PeelError as problem:
            error = problem
        except Exception as problem:
            log.exception("decoding a clip failed")
            error = PeelError(f"internal error: {type(problem).__name__}: {problem}")
        with self._lock:
            if self._wanted is None:
                return
            if error is None:
                self._loaded = (wanted, instances)
                if self._wanted is wanted:
                    self._wanted = None
            elif self._wanted is wanted:
                self._error = error


def _same_points(one: ClipScene, other: ClipScene) -> bool:
    """Whether they show the same frames in the same way, wherever they are."""
    return [i.points_key for i in one.instances] == [i.points_key for i in other.instances]
