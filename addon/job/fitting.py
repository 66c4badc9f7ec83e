# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that packs a clip with points fitted to its footage, watched from a thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..packing import Packing, Written
from .process import WorkerProcess, tail

#: Seconds between two looks at the worker, until it is ended that was asked to cancel, and until
#: one that says nothing is given up.
_POLL_SECONDS, _CANCEL_SECONDS, _HANG_SECONDS = 0.1, 10.0, 120.0
_STAGES = {"search": "Looking for the steps", "clean plates": "Reading the footage"}


class Fitting(Packing):
    """One worker."""

    def __init__(self, command: Sequence[str], *, log: Path, environment: dict[str, str]) -> None:
        super().__init__()
        self.state = "Starting"
        self._command, self._log, self._environment = command, log, environment

    def work(self) -> None:
        try:
            process = WorkerProcess(self._command, log=self._log, environment=self._environment)
        except OSError as error:
            self.error = f"The worker cannot be started: {error}"
            return
        try:
            self._watch(process)
        finally:
            process.close(1.0)

    def _watch(self, process: WorkerProcess) -> None:
        kill_at = None
        while self.packed is None and self.error is None:
            if self.cancelled.is_set() and kill_at is None:
                process.ask_to_cancel()
                kill_at = time.monotonic() + _CANCEL_SECONDS
            if kill_at is not None and time.monotonic() > kill_at:
                self.error = ""
                return
            code = process.poll()
            for event in process.events():
                self._take(event)
            if self.packed is not None or self.error is not None:
                return
            if code is not None:
                stopped = kill_at is not None
                why = tail(self._log) or f"the worker ended with exit code {code}"
                self.error = "" if stopped else why
                return
            if process.silence() > _HANG_SECONDS:
                self.error = f"The worker has not answered for {_HANG_SECONDS:.0f} s and was ended"
                return
            time.sleep(_POLL_SECONDS)

    def _take(self, event: dict) -> None:
        kind = event["event"]
        if kind == "progress":
            self.state = _STAGES.get(event.get("stage"), "Fitting to the footage")
            self.share = event.get("step", 0) / max(event.get("total") or 1, 1)
        elif kind == "done":
            self.packed = Written(event["bytes"], event["source_bytes"], event["pruned"])
        elif kind == "cancelled":
            self.error = ""
        elif kind == "error":
            self.error = str(event.get("message"))
