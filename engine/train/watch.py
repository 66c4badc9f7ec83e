"""What somebody who watches a reconstruction may do: end it, and see what it looks like so far."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import PeelError
from ..render.splats import Splats


class Cancelled(PeelError):
    """The reconstruction was ended on request; what was trained is kept in its folder."""

    code = "cancelled"
    exit_code = 130

    def __init__(self) -> None:
        super().__init__("cancelled", hint="Everything trained so far is kept, resume goes on")


class Watch:
    """Asked after every step of the optimisation; this one never interferes."""

    def check(self) -> None:
        """Raises Cancelled, or why else the run has to end. The step before it is saved."""

    def preview_due(self) -> bool:
        """Whether `preview` is wanted now; cheap."""
        return False

    def preview(self, splats: Splats, frame: int, *, fps: float, up: Sequence[float] | None):
        """The current points of the frame with this label."""

    def accompany(self, pids: Sequence[int]) -> None:
        """These processes work for the run as well, so what they hold counts."""


UNWATCHED = Watch()
