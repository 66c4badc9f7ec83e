# SPDX-License-Identifier: GPL-3.0-or-later
"""A check of an interpreter or the creation of an environment, in the background."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from .process import WorkerProcess, tail

#: A creation that is cancelled deletes what it has made; after these seconds it is killed.
CANCEL_SECONDS = 30.0


@dataclass
class Task:
    """kind: "check" or "create". environment: the worker's event of that name, once it is known.
    error: why there is none. message, fraction: what it does."""

    kind: str
    process: WorkerProcess
    log: Path
    message: str = "Starting"
    fraction: float = 0.0
    environment: dict | None = None
    error: str = ""
    _kill_at: float | None = None

    @property
    def is_running(self) -> bool:
        return self.environment is None and not self.error

    def poll(self) -> bool:
        """Take what has happened; True when anything to be shown has changed."""
        if not self.is_running:
            return False
        code = self.process.poll()
        events = self.process.events()
        for event in events:
            if event["event"] == "environment":
                self.environment = event
            elif self._kill_at is not None:
                pass  # what it says while it is being cancelled is no news
            elif event["event"] == "error":
                self.error = str(event.get("message"))
            elif event["event"] == "progress":
                self.message = str(event.get("stage"))
                total = event.get("total") or 1
                self.fraction = min(1.0, event.get("step", 0) / total)
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self.process.kill()
        if self.is_running and code is not None and self._kill_at is not None:
            self.error = "cancelled"
        if self.is_running and code is not None:
            self.error = tail(self.log) or f"the interpreter ended with exit code {code}"
        if not self.is_running:
            self.process.let_go()
        return bool(events) or not self.is_running

    def cancel(self) -> None:
        """Ask it to end; it runs until it has deleted what it has made."""
        if self.kind != "create":
            self.end()
        elif self.is_running and self._kill_at is None:
            self.message = "Cancelling"
            self._kill_at = time.monotonic() + CANCEL_SECONDS
            self.process.ask_to_cancel()

    def end(self) -> None:
        """Kill it."""
        if self.is_running:
            self.error = "cancelled"
        self.process.kill()
        self.process.close()

    def report(self) -> list[str]:
        """Lines about the interpreter; [] before they are known."""
        if self.environment is None:
            return []
        found = self.environment
        lines = [f"Python {found['python']}"]
        lines += [f"{name} {version}" for name, version in found["versions"].items()]
        gpu, memory = found.get("gpu"), found.get("gpu_bytes")
        size = f" ({memory / 2**30:.0f} GB)" if memory else ""
        lines.append(f"GPU: {gpu}{size}" if gpu else "GPU: none that torch can use")
        return lines

    def missing(self) -> list[str]:
        return [entry["name"] for entry in (self.environment or {}).get("missing", [])]
