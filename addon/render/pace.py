# SPDX-License-Identifier: GPL-3.0-or-later
"""How large a picture may be to be ready in time, and how many there are. No bpy."""

from __future__ import annotations

import threading
from collections import deque

#: A picture of a moving view takes about so long, seconds.
TARGET = 0.06
#: The smallest size of a moving view, share of width and height.
SMALLEST = 0.2
#: From this size on nothing is made smaller: it would only be blurred.
_ALMOST = 0.9
#: After so long without a picture a new movement begins, seconds.
_PAUSE = 1.0
#: Pictures that the rate looks back on.
_RATE_OVER = 12


class Pace:
    """Chooses the size of a moving view from how long its last pictures took."""

    def __init__(self) -> None:
        self._scale: float | None = None

    def scale(self) -> float:
        """Share of width and height, in [SMALLEST, 1]."""
        if self._scale is None:
            return 0.5  # the first picture of all is to be there soon
        return 1.0 if self._scale >= _ALMOST else self._scale

    def record(self, scale: float, seconds: float) -> None:
        """A picture of this size took so long.

        Time is taken as proportional to the number of pixels. Where the points take a fixed part
        of it the next pictures correct the choice; half a step each, in logarithms, so that one
        picture that another program has slowed down does not make the next one tiny.
        """
        wanted = scale * (TARGET / max(seconds, 1e-4)) ** 0.5
        if self._scale is not None:
            wanted = (self._scale * wanted) ** 0.5
        self._scale = min(max(wanted, SMALLEST), 1.0)


class Rate:
    """Pictures per second while a view moved last. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=_RATE_OVER)

    def count(self, now: float) -> None:
        """A picture of a moving view, at time.monotonic()."""
        with self._lock:
            if self._times and now - self._times[-1] > _PAUSE:
                self._times.clear()
            self._times.append(now)

    @property
    def per_second(self) -> float:
        """0 before the second picture."""
        with self._lock:
            times = tuple(self._times)
        return (len(times) - 1) / max(times[-1] - times[0], 1e-6) if len(times) > 1 else 0.0
