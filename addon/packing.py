# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on a packed clip in a thread of its own, watched by an operator."""

from __future__ import annotations

import threading
from typing import NamedTuple


class Written(NamedTuple):
    """What has been packed: bytes of the file and of its source, the share of points left out."""

    nbytes: int
    source_nbytes: int
    pruned: float


class Packing:
    """One run. packed or error is set once it is over; an empty error: it was cancelled.

    state, share: what it does, for people, and how much of that is done. Subclasses say in `work`
    what that is, and end soon when `cancelled` is set.
    """

    def __init__(self) -> None:
        self.packed: Written | None = None
        self.error: str | None = None
        self.state, self.share = "Packing", 0.0
        self.cancelled = threading.Event()
        self._thread = threading.Thread(target=self.work, name="peel4d-pack", daemon=True)

    def work(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        self.cancelled.set()

    def wait(self) -> None:
        self._thread.join()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()
