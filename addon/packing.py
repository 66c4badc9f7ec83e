# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on a packed clip in a thread of its own, watched by an operator."""

from __future__ import annotations

import abc
import threading
from typing import NamedTuple

from ..engine.errors import PeelError


class Written(NamedTuple):
    """What has been packed: bytes of the file and of its source, the share of points left out."""

    nbytes: int
    source_nbytes: int
    pruned: float


class Cancelled(Exception):
    """`work` has ended because it was asked to."""


class Packing(abc.ABC):
    """One run. packed or error is set once it is over; an empty error: it was cancelled.

    state, share: what it does, for people, and how much of that is done.
    """

    def __init__(self) -> None:
        self.packed: Written | None = None
        self.error: str | None = None
        self.state, self.share = "Packing", 0.0
        self.cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peel4d-pack", daemon=True)

    @abc.abstractmethod
    def work(self) -> Written:
        """Pack, and raise `Cancelled` soon after `cancelled` is set. Raises PeelError, OSError."""

    def _run(self) -> None:
        try:
            self.packed = self.work()
        except Cancelled:
            self.error = ""
        except (PeelError, OSError) as error:
            self.error = str(error)
        except Exception as error:  # nobody else would see it
            self.error = f"{type(error).__name__}: {error}"

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        self.cancelled.set()

    def wait(self) -> None:
        self._thread.join()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()
