# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that packs a clip with points fitted to its footage, watched from a thread."""

from __future__ import annotations

import time
from pathlib import Path

from ...engine.errors import PeelError
from ..packing import Cancelled, Packing, Written
from .process import WorkerProcess, tail

#: Seconds between two looks at the worker, until it is ended that was asked to cancel, and until
#: one that says nothing is given up.
_POLL_SECONDS, _CANCEL_SECONDS, _HANG_SECONDS = 0.1, 10.0, 120.0
_STAGES = {"search": "Looking for the steps", "clean plates": "Reading the footage"}


class Fitting(Packing):
    """One worker, which has been started. log: where its stderr goes."""

    def __init__(self, process: WorkerProcess, log: Path) -> None:
        super().__init__()
        self.state = "Starting"
        self._process, self._log = process, log

    def work(self) -> Written:
        try:
            return self._watched()
        finally:
            self._process.close(1.0)

    def _watched(self) -> Written:
        process, kill_at = self._process, None
        while True:
            if self.cancelled.is_set() and kill_at is None:
                process.ask_to_cancel()
                kill_at = time.monotonic() + _CANCEL_SECONDS
            if kill_at is not None and time.monotonic() > kill_at:
                raise Cancelled
            code = process.poll()
            for event in process.events():
                if written := self._taken(event):
                    return written
            if code is not None:
                if kill_at is not None:
                    raise Cancelled
                raise PeelError(tail(self._log) or f"the worker ended with exit code {code}")
            if process.silence() > _HANG_SECONDS:
                raise PeelError(f"The worker has not answered for {_HANG_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _taken(self, event: dict) -> Written | None:
        """What the worker has written, once it says so."""
        kind = event["event"]
        if kind == "progress":
            self.state = _STAGES.get(event.get("stage"), "Fitting to the footage")
            self.share = event.get("step", 0) / max(event.get("total") or 1, 1)
        elif kind == "done":
            return Written(event["bytes"], event["source_bytes"], event["pruned"])
        elif kind == "cancelled":
            raise Cancelled
        elif kind == "error":
            raise PeelError(str(event.get("message")))
        return None
