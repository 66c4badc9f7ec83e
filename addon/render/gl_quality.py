# SPDX-License-Identifier: GPL-3.0-or-later
"""How fine a picture the graphics device has time for."""

from __future__ import annotations

from dataclasses import dataclass

#: A picture of a moving view should take no longer, seconds.
MOVING = 1 / 15
#: A still view is not refined to what takes longer in all, seconds; `gl_peel.SLICE` bounds how long
#: it blocks Blender's window at a time.
STILL = 20.0


@dataclass(frozen=True)
class Quality:
    """divisor: pixels of the viewport per pixel of the picture. layers: at most so many.
    stride: every so many-th point."""

    divisor: int
    layers: int
    stride: int

    def cost(self) -> float:
        """Roughly proportional to the time: half of it goes by points, half by pixels."""
        return self.layers * (1 / self.stride + 1 / self.divisor**2)


_LADDER = (
    Quality(1, 64, 1),
    Quality(2, 64, 1),
    Quality(2, 8, 1),
    Quality(2, 6, 2),
    Quality(3, 6, 2),
    Quality(3, 4, 4),
    Quality(4, 4, 6),
    Quality(4, 3, 10),
    Quality(6, 2, 20),
    Quality(8, 2, 40),
    Quality(12, 1, 80),
)
#: Where a device of unknown speed begins.
_FIRST = 4


def ladder(layers: int) -> tuple[Quality, ...]:
    """From the finest, with all `layers`, to the coarsest."""
    return tuple(Quality(q.divisor, min(q.layers, layers), q.stride) for q in _LADDER)


class Adaptation:
    """Chooses the quality of the next picture from what the last ones took."""

    def __init__(self) -> None:
        self._moving_step = self._chosen = self._step = _FIRST  # step: of the last picture
        self._seconds: float | None = None

    def choose(self, layers: int, moving: bool) -> Quality:
        """The quality to draw with now. Say what it took with `record`, if it was drawn."""
        steps = ladder(layers)
        if moving:
            self._chosen = self._moving_step = self._moving(steps)
        elif self._seconds is not None:
            self._chosen = self._refined(steps)
        return steps[self._chosen]

    def record(self, seconds: float, moving: bool) -> None:
        """What the picture of the last `choose` took."""
        self._step, self._seconds = self._chosen, seconds
        self._was_moving = moving

    def finest(self, layers: int) -> bool:
        """Whether a still view cannot get better than the last picture."""
        return self._step == self._refined(ladder(layers))

    _was_moving = True

    def _predicted(self, steps: tuple[Quality, ...], step: int) -> float:
        assert self._seconds is not None
        return self._seconds * steps[step].cost() / steps[self._step].cost()

    def _moving(self, steps: tuple[Quality, ...]) -> int:
        if self._seconds is None or not self._was_moving:
            return self._moving_step  # the picture of a still view took as long as it liked
        step = self._step
        if self._seconds > 1.3 * MOVING:
            while step < len(steps) - 1 and self._predicted(steps, step) > MOVING:
                step += 1
        elif step > 0 and self._predicted(steps, step - 1) < 0.8 * MOVING:
            step -= 1
        return step

    def _refined(self, steps: tuple[Quality, ...]) -> int:
        """The finest that takes at most STILL, at most 8 times what the last picture took: the
        prediction gets better on the way, and an unknown device cannot be overtaxed at once."""
        if self._seconds is None:
            return self._step
        limit = min(STILL, max(8 * self._seconds, 0.1))
        step = self._step
        while step > 0 and self._predicted(steps, step - 1) <= limit:
            step -= 1
        return step
