# SPDX-License-Identifier: GPL-3.0-or-later
"""Final renders that are under way, so that the add-on is not disabled under their feet.

Blender frees a render engine when its class is unregistered, also while its thread draws, and then
crashes. So the class goes when the render has gone.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

import bpy

#: What disabling the add-on waits for a picture to be given up; a step of one takes far less.
_PATIENCE = 10.0
_POLL_SECONDS = 0.1
#: Seconds; longer than any callback.
_UNDISTURBED = 5.0


class FinalRenders:
    """leaving: the add-on has been disabled, pictures are to be given up."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()
        self._leave: Callable[[], None] = lambda: None
        # Blender knows timers by their identity, and a method is another object each time.
        self._timer = self._poll
        self.leaving = False

    @property
    def drawing(self) -> bool:
        """Whether Blender has handed a picture over that is not finished yet."""
        return self._count > 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """A picture is being drawn."""
        with self._changed:
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def end(self, leave: Callable[[], None]) -> None:
        """Have pictures given up; call `leave` when Blender's render has ended, now without one."""
        if bpy.app.background or not bpy.app.is_job_running("RENDER"):
            leave()
            return
        self._leave = leave
        with self._changed:
            self.leaving = True
            self._changed.wait_for(lambda: self._count == 0, _PATIENCE)
        bpy.app.timers.register(self._timer, first_interval=_POLL_SECONDS, persistent=True)

    def begin(self) -> None:
        """The add-on is there, again."""
        self.leaving = False
        if bpy.app.timers.is_registered(self._timer):
            bpy.app.timers.unregister(self._timer)

    def _poll(self) -> float | None:
        if bpy.app.is_job_running("RENDER"):
            return _POLL_SECONDS
        self.leaving = False
        self._leave()
        return None


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Python to this thread for the few milliseconds of a viewport's callback.

    While a render engine's callback runs, Blender forbids operators by a flag that all threads
    share, and each callback puts back what it found. When the callback of a final render begins or
    ends in the middle of a viewport's, the flag stays: no operator works until Blender is started
    anew (4.3.2).
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_UNDISTURBED)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


#: Those of this process.
FINAL_RENDERS = FinalRenders()
