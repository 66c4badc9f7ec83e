# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that packs a clip with points fitted to its footage, watched from a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .process import WorkerProcess, tail

#: Seconds between two looks at the worker, until it is ended that was asked to cancel, and until
#: one that says nothing is given up.
_POLL_SECONDS, _CANCEL_SECONDS, _HANG_SECONDS = 0.1, 10.0, 120.0
_STAGES = {"search": "Looking for the steps", "clean plates": "Reading the footage"}


class Fitted(NamedTuple):
    """What the worker has written."""

    nbytes: int
    source_nbytes: int
    pruned: float


class Fitting:
    """One worker. packed or error is set once it is over; an empty error: it was cancelled.

    state, share: what it does, for people, and how much of that is done.
    """

    def __init__(self, command: Sequence[str], *, log: Path, environment: dict[str, str]) -> None:
        self.packed: Fitted | None = None
        self.error: str | None = None
        self.state, self.share = "Starting", 0.0
        self._start = (command, log, environment)
        self._log = log
        self._cancel = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peel4d-fit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        self._cancel.set()

    def wait(self) -> None:
        self._thread.join()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        command, log, environment = self._start
        try:
            process = WorkerProcess(command, log=log, environment=environment)
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
            if self._cancel.is_set() and kill_at is None:
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
            self.packed = Fitted(event["bytes"], event["source_bytes"], event["pruned"])
        elif kind == "cancelled":
            self.error = ""
        elif kind == "error":
            self.error = str(event.get("message"))
