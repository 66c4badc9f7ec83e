"""The worker as Blender starts it: a process whose events are read on a thread."""

from __future__ import annotations

import json
import queue
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "engine" / "worker" / "launch.py"
#: About a second per frame: long enough to be interrupted.
QUICK = ("--preset=draft", "--steps=300", "--frames=0:2")


class Worker:
    """A worker process whose events are read on a thread."""

    def __init__(
        self,
        *arguments: object,
        limits: dict[int, int] | None = None,
        launch=LAUNCH,
        python=(sys.executable,),
        **options,
    ):
        def limit() -> None:
            for name, value in (limits or {}).items():
                resource.setrlimit(name, (value, value))

        self.process = subprocess.Popen(
            [*python, str(launch), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit if limits else None,
            **options,
        )
        self.events: list[dict] = []
        self.errors = ""
        self._queue: queue.Queue = queue.Queue()
        for target in (self._read, self._read_errors):
            threading.Thread(target=target, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def _read_errors(self) -> None:
        self.errors = self.process.stderr.read()

    def until(self, wanted: Callable[[dict], bool], seconds: float = 120) -> dict:
        """The next event that is wanted; the worker may not end before it."""
        deadline = time.monotonic() + seconds
        while True:
            event = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            assert event is not None, f"ended early: {self.events[-3:]} {self.errors}"
            self.events.append(event)
            if wanted(event):
                return event

    def finish(self, seconds: float = 120) -> dict:
        """The last event, after the end."""
        deadline = time.monotonic() + seconds
        while (event := self._queue.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            self.events.append(event)
        self.process.wait(10)
        return [event for event in self.events if event["event"] != "heartbeat"][-1]

    def cancel(self) -> None:
        self.process.stdin.write("cancel\n")
        self.process.stdin.flush()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait(10)


def in_frame(number: int, part: float = 0.3) -> Callable[[dict], bool]:
    """Whether an event says that so much of this frame has been trained."""
    least = 1000 * (number + part)
    return lambda event: event.get("stage") == "frames" and event["step"] >= least


def psnr(event: dict) -> float:
    return event["scores"]["final_mask"]["psnr"]
