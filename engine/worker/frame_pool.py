"""Trains frames in processes of their own, because one process leaves most of a machine idle: on a
CPU torch works on one thread, and a GPU waits for Python between the steps."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import PeelError, ReconstructionError
from ..machine import cores
from ..progress import ProgressCallback
from ..train.checkpoint import load_splats
from ..train.frames import FrameProgress, Unit, seconds_for
from ..train.run import Run
from .lifeline import ORPHAN_SECONDS

log = logging.getLogger(__name__)

_LAUNCH = Path(__file__).with_name("launch.py")
#: Processes at most: each holds torch and the images of a frame.
_MOST = 8
#: What each of them holds, and the one that starts them, of captures of common size.
_PROCESS_BYTES, _OWN_BYTES = 1 << 30, 3 << 29
#: What each of them, and the one that starts them, holds of a GPU: 0.8 GB on an H200, half of it
#: CUDA's own.
_PROCESS_VRAM = 1 << 30
#: Seconds between looks at the watch.
_POLL = 0.05


class FramePool:
    """Processes that train the frames of the reconstruction in `output`; a context manager.

    jobs: how many. max_memory: bytes for the images of all. max_vram: bytes of the GPU for each of
    them, or None. device: see `training_device`. They start at once and load their libraries while
    the shared stage runs; they end with the last unit, or with the context. memory_bytes: the most
    that those which have trained a frame held, together.
    """

    def __init__(
        self, output: Path, jobs: int, *, max_memory: int, max_vram: int | None, device: str
    ):
        self._events: queue.SimpleQueue[tuple[_Member, dict | None]] = queue.SimpleQueue()
        self._output = output
        self._jobs = jobs
        self._options = [
            "--max-memory",
            f"{max(1, (max_memory // jobs) >> 10)}K",
            "--device",
            device,
        ]
        if max_vram is not None:
            self._options += ["--max-vram", f"{max(1, max_vram >> 10)}K"]
        self._members: list[_Member] = []

    def __enter__(self) -> FramePool:
        threads = max(1, cores() // self._jobs)
        command = [sys.executable, str(_LAUNCH), "frames", str(self._output), *self._options]
        for _ in range(self._jobs):
            self._members.append(_Member(command, threads, self._events))
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def _end(self) -> None:
        for member in self._members:
            member.close()
        deadline = time.monotonic() + ORPHAN_SECONDS
        for member in self._members:
            member.wait(max(0.1, deadline - time.monotonic()))

    @property
    def memory_bytes(self) -> int:
        return sum(member.memory_bytes for member in self._members)

    @property
    def pids(self) -> list[int]:
        return [member.process.pid for member in self._members]

    def train(self, run: Run, units: Sequence[Unit], progress: ProgressCallback) -> None:
        """Train units into the folder of `run`, all processes at once. Raises PeelError."""
        counted = FrameProgress(run.plan, units, progress)
        waiting = list(reversed(units))

        def train_next(member: _Member) -> None:
            seconds = seconds_for(run.deadline, len(waiting), self._jobs)
            member.train(waiting.pop(), seconds)

        for member in self._members[: len(units)]:
            train_next(member)
        left = len(units)
        while left:
            run.watch.check()
            if run.watch.preview_due():
                self._ask_for_preview()
            try:
                member, event = self._events.get(timeout=_POLL)
            except queue.Empty:
                continue
            if event is None:
                raise member.death()
            kind = event.pop("event")
            if kind == "step":
                counted(tuple(event["unit"]), event["part"], event["metrics"])
            elif kind == "unit":
                left -= 1
                counted(tuple(event["unit"]), 1.0, {})
                member.finished(event)
                if waiting:
                    train_next(member)
            elif kind == "preview":
                member.preview_asked = False
                path = Path(event["path"])
                run.preview(event["frame"], load_splats(path))
                path.unlink(missing_ok=True)
            elif kind == "warning":
                log.warning("%s", event["message"])
            elif kind == "error":
                raise _error(event)
        # What they hold, of a GPU above all, is wanted by what comes after the frames.
        self._end()

    def _ask_for_preview(self) -> None:
        """Of the earliest frame that is being trained, once until it has come."""
        busy = [member for member in self._members if member.unit]
        if busy and not any(member.preview_asked for member in busy):
            earliest = min(busy, key=lambda member: member.unit)
            earliest.preview_asked = True
            earliest.tell("preview")


class _Member:
    """One process of the pool."""

    def __init__(self, command: list[str], threads: int, events: queue.SimpleQueue):
        self.unit: Unit | None = None
        self.preview_asked = False
        self.memory_bytes = 0
        self.process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PEEL4D_THREADS": str(threads)},
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def train(self, unit: Unit, seconds: float) -> None:
        self.unit = unit
        self.tell(" ".join(map(str, ("train", seconds, *unit))))

    def finished(self, event: dict) -> None:
        self.unit = None
        self.preview_asked = False
        self.memory_bytes = event["memory_bytes"] or 0

    def tell(self, line: str) -> None:
        with suppress(OSError, ValueError):  # it has ended, and the end of its output says so
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """Cancel: a frame in training leaves its checkpoint."""
        self.tell("cancel")
        with suppress(OSError):
            self.process.stdin.close()

    def wait(self, seconds: float) -> None:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def death(self) -> PeelError:
        """Why it has ended though nobody asked."""
        code = self.process.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return ReconstructionError(
            f"a process that trains frames has ended {how}",
            hint="The log says why; where memory was short, use fewer of them (--jobs 1). Resume "
            "goes on with what was trained",
        )

    def _read(self, events: queue.SimpleQueue) -> None:
        with self.process.stdout as lines:
            for line in lines:
                events.put((self, json.loads(line)))
        events.put((self, None))


def _error(event: dict) -> PeelError:
    error = PeelError(event["what"], where=event["where"], hint=event["hint"])
    error.code = event["code"]
    return error


def jobs_for(
    jobs: int | None,
    units: int,
    *,
    memory: int | None,
    gpu: bool = False,
    vram: int | None = None,
) -> int:
    """How many processes to train so many units with.

    jobs: what was asked for, None for as many as use the machine well. memory: bytes that all of
    them may hold, with the process that starts them; None where that is not known. vram: the same
    of the GPU.
    """
    if jobs is None:
        # A start costs as much as two or three frames.
        jobs = min(_MOST, cores() // 2 if gpu else cores(), units // 2)
        if memory is not None:
            jobs = min(jobs, (memory - _OWN_BYTES) // _PROCESS_BYTES)
        if gpu and vram is not None:
            jobs = min(jobs, vram // _PROCESS_VRAM - 1)
    return max(1, min(jobs, units))
