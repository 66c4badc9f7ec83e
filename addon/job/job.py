# SPDX-License-Identifier: GPL-3.0-or-later
"""One reconstruction in the background: its state, from what its process says or does not say."""

from __future__ import annotations

import enum
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .process import WorkerProcess, tail

#: Without a heartbeat for so long a worker hangs. It sends one every two seconds, but a machine
#: that swaps, or that sleeps, stops them for a while.
HANG_SECONDS = 60.0
#: The same while the interpreter starts.
START_SECONDS = 180.0
#: From the request to cancel to the kill: a step and a checkpoint take less.
CANCEL_SECONDS = 20.0


class State(enum.Enum):
    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    CRASHED = "crashed"
    HUNG = "hung"

    @property
    def is_active(self) -> bool:
        return self in (State.STARTING, State.RUNNING, State.CANCELLING)

    @property
    def is_trouble(self) -> bool:
        return self in (State.FAILED, State.CRASHED, State.HUNG)


@dataclass(frozen=True)
class Limits:
    """Seconds of patience."""

    hang: float = HANG_SECONDS
    start: float = START_SECONDS
    cancel: float = CANCEL_SECONDS


@dataclass(frozen=True)
class JobEvents:
    """Who wants to know. preview(path), done(result)."""

    preview: Callable[[Path], None] = lambda path: None
    done: Callable[[dict], None] = lambda result: None


@dataclass
class Job:
    """The state of a worker. `poll` moves it on and never blocks; no bpy in here.

    output: folder of the reconstruction. message: for people, what it does or why it ended.
    fraction: of the stage, 0 to 1. eta: seconds of the stage or None. metrics: the latest of each.
    """

    process: WorkerProcess
    output: Path
    log: Path
    events: JobEvents = field(default_factory=JobEvents)
    limits: Limits = field(default_factory=Limits)
    state: State = State.STARTING
    stage: str = ""
    message: str = "Starting"
    fraction: float = 0.0
    eta: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    result: dict | None = None
    error_code: str = ""
    _cancelled_at: float | None = None
    _polled_at: float = field(default_factory=time.monotonic)

    def poll(self) -> bool:
        """Take what has happened; True when anything to be shown has changed."""
        if not self.state.is_active:
            return False
        now = time.monotonic()
        asleep = now - self._polled_at > self.limits.hang / 2
        self._polled_at = now
        code = self.process.poll()
        events = self.process.events()
        for event in events:
            self._apply(event)
        if not self.state.is_active:
            self.process.let_go()  # it has said its last word
            return True
        if code is not None:
            self._ended(code)
        elif self._cancelled_at is not None and now - self._cancelled_at > self.limits.cancel:
            self._give_up(
                State.CANCELLED,
                "Cancelled; it did not answer and was ended. The steps since the last checkpoint "
                "are lost, Resume goes on from there",
            )
        elif not asleep and self.process.silence() > self._patience():
            # After a sleep of the machine, or of Blender, first hear what it has to say.
            seconds = round(self.process.silence())
            self._give_up(
                State.HUNG,
                f"The reconstruction has not answered for {seconds} s and was ended. "
                "Resume goes on from the last checkpoint",
            )
        else:
            return bool(events)
        return True

    def cancel(self) -> None:
        """Ask it to save and to end; it is killed after a while if it does not."""
        if self.state.is_active and self._cancelled_at is None:
            self._cancelled_at = time.monotonic()
            self.state = State.CANCELLING
            self.message = "Cancelling, saving a checkpoint"
            self.process.ask_to_cancel()

    def end(self, seconds: float) -> None:
        """Cancel, wait up to `seconds` for the checkpoint, then kill. For leaving Blender."""
        if not self.state.is_active:
            return
        self.cancel()
        self.process.close(seconds)
        self.state, self.message = State.CANCELLED, "Ended, Resume goes on"

    def _patience(self) -> float:
        return self.limits.start if self.state is State.STARTING else self.limits.hang

    def _give_up(self, state: State, message: str) -> None:
        self.process.kill()
        self.process.let_go()
        self.state, self.message = state, message

    def _apply(self, event: dict) -> None:
        kind = event["event"]
        if kind == "started" and self.state is State.STARTING:
            self.state, self.message = State.RUNNING, "Preparing"
        elif kind == "progress":
            self._progress(event)
        elif kind == "preview":
            self.events.preview(Path(str(event.get("path"))))
        elif kind == "warning":
            self.warnings = [*self.warnings, str(event.get("message"))][-20:]
        elif kind == "done":
            self.state, self.result, self.fraction = State.DONE, event, 1.0
            self.message, self.eta = _summary(event), None
            self.events.done(event)
        elif kind == "cancelled":
            self.state = State.CANCELLED
            self.message = "Cancelled. Everything trained so far is kept, Resume goes on"
        elif kind == "error":
            self.state = State.FAILED
            self.error_code = str(event.get("code"))
            self.message = str(event.get("message"))

    def _progress(self, event: dict) -> None:
        self.stage = str(event.get("stage", ""))
        step, total = _number(event.get("step")), _number(event.get("total"))
        self.fraction = min(1.0, max(0.0, step / total)) if total > 0 else 0.0
        eta = event.get("eta")
        self.eta = _number(eta) if eta is not None else None
        metrics = event.get("metrics")
        if isinstance(metrics, dict):
            self.metrics |= {str(name): _number(value) for name, value in metrics.items()}
        if self.state is State.RUNNING:
            self.message = self.stage

    def _ended(self, code: int) -> None:
        """The process has gone without a last word."""
        self.process.let_go()
        if self.state is State.CANCELLING:
            self.state, self.message = State.CANCELLED, "Cancelled, Resume goes on"
            return
        begun = self.state is State.RUNNING
        self.state = State.CRASHED
        how = f"with exit code {code}"
        if code < 0:
            try:
                how = f"by {signal.Signals(-code).name}"
            except ValueError:
                how = f"by signal {-code}"
        held = self.process.memory_bytes
        memory = f" while it held {held / 2**30:.2f} GB of memory" if held else ""
        text = f"The reconstruction was ended {how}{memory}"
        if code == -9:
            text += (
                ". Systems do that when memory runs out: close other programs or take fewer views"
            )
        elif last := tail(self.log):
            text += f": {last}"
        self.message = text + (". Resume goes on from the last checkpoint" if begun else "")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _summary(result: dict) -> str:
    scores = result.get("scores") or {}
    text = f"Done: {result.get('frames')} frames in {_number(result.get('seconds')):.0f} s"
    for name in ("final_mask", "final_full"):
        if name in scores:
            return f"{text}, {scores[name]['psnr']:.2f} dB on held-out views"
    return text
