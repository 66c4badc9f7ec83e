# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs of this Blender: one reconstruction, one task on interpreters; polled by a timer."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy

from ...engine.errors import ReconstructionError
from ..preferences import environment_folder, preferences
from .interpreter import LOCK, Interpreter, choose, launch, own_python
from .job import Job, JobEvents, Limits, State
from .request import Request, has_reconstruction
from .result import ResultInScene
from .task import Task

POLL_SECONDS = 0.25
#: Leaving Blender waits for a checkpoint no longer than this.
QUIT_SECONDS = 5.0


class JobSession:
    """job: the last reconstruction, running or over. task: the last check or creation of an
    interpreter. request: of the job. None before the first."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.request: Request | None = None
        self.task: Task | None = None
        self._result: ResultInScene | None = None

    @property
    def is_active(self) -> bool:
        return self.job is not None and self.job.state.is_active

    def start(self, request: Request, scene: bpy.types.Scene, *, limits: Limits | None = None):
        """Start the worker and, where there is an event loop, the timer. Raises PeelError."""
        if self.is_active:
            raise ReconstructionError(
                "a reconstruction is running", hint="Cancel it first, or wait for it"
            )
        _check_folder(request)
        chosen = choose(preferences().interpreter, environment_folder())
        log = request.output / "worker.log"
        arguments = request.arguments(
            memory_limit=preferences().memory_limit, previews=not bpy.app.background
        )
        process = launch(chosen, arguments, log)
        self._result = ResultInScene(scene.name)
        self.request = request
        events = JobEvents(self._result.preview, self._result.done)
        self.job = Job(process, request.output, log, events, limits or Limits())
        self._watch()

    def check(self, interpreter: Interpreter) -> None:
        """Ask an interpreter what it has, in the background. Raises PeelError."""
        self._start_task("check", interpreter, ["check"])

    def create(self, folder: Path) -> None:
        """Create the environment in the background. Raises PeelError."""
        python = own_python()
        if python is None:
            raise ReconstructionError(
                "Blender's Python is no program of its own here",
                hint="Create an environment yourself and set its interpreter",
            )
        # Not as "Blender": what Blender has must not leak into the new environment.
        arguments = ["create", str(folder), str(LOCK)]
        self._start_task("create", Interpreter(python, "preferences"), arguments)

    def _start_task(self, kind: str, interpreter: Interpreter, arguments: list[str]) -> None:
        if self.task is not None and self.task.is_running:
            raise ReconstructionError("another check is running", hint="Wait for it")
        log = Path(bpy.app.tempdir) / f"peel4d-{kind}.log"
        self.task = Task(kind, launch(interpreter, arguments, log), log)
        self._watch()

    def poll(self) -> bool:
        """Move everything on; True while anything is running."""
        changed = self.job is not None and self.job.poll()
        if self.task is not None:
            changed = self.task.poll() or changed
        waiting = self._result is not None and self._result.apply()
        if changed:
            _redraw()
        return self.is_active or waiting or (self.task is not None and self.task.is_running)

    def run_to_end(self, tell: Callable[[str], None]) -> None:
        """Poll until the job is over, telling what it does: for Blender without a window.

        Ctrl-C in its terminal cancels; the second one does not wait for the checkpoint.
        """
        last = ""
        try:
            with _interrupts_cancel(self.job):
                while self.poll():
                    time.sleep(0.1)
                    text = progress_text(self.job)
                    if text != last:
                        tell(text)
                        last = text
        except KeyboardInterrupt:
            self.job.end(QUIT_SECONDS)
            raise

    def wait_for_task(self, tell: Callable[[str], None]) -> None:
        """Poll until the task is over."""
        last = ""
        while self.task.is_running:
            self.poll()
            if self.task.message != last:
                tell(self.task.message)
                last = self.task.message
            time.sleep(0.1)

    def forget_scene(self) -> None:
        """Another file is being loaded: cancel, and leave the new file alone."""
        if self.job is not None:
            self.job.cancel()
            self.job.events = JobEvents()
        self._result = None

    def end(self) -> None:
        """End everything that runs; for leaving Blender and for disabling the add-on."""
        if bpy.app.timers.is_registered(_timer):
            bpy.app.timers.unregister(_timer)
        if self.task is not None:
            self.task.end()
        if self.job is not None:
            self.job.end(QUIT_SECONDS)
        self.job = self.request = self.task = self._result = None

    def _watch(self) -> None:
        if not bpy.app.background and not bpy.app.timers.is_registered(_timer):
            bpy.app.timers.register(_timer, first_interval=POLL_SECONDS, persistent=True)


#: The one session of this process.
SESSION = JobSession()


def _timer() -> float | None:
    return POLL_SECONDS if SESSION.poll() else None


@contextlib.contextmanager
def _interrupts_cancel(job: Job) -> Iterator[None]:
    """Blender's own handler would ignore the first Ctrl-C and drop everything at the second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(*_args: object) -> None:
        if job.state is State.CANCELLING:
            raise KeyboardInterrupt
        job.cancel()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        # None: it was a handler in C, which Python cannot set again.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def progress_text(job: Job) -> str:
    """A line for a console: the stage in tenths, so that it does not flood."""
    if job.state is not State.RUNNING or not job.stage:
        return job.message
    tenth = int(job.fraction * 10)
    return f"{job.stage}: {tenth * 10} %"


def _check_folder(request: Request) -> None:
    there = has_reconstruction(request.output)
    if there and not request.resume:
        raise ReconstructionError(
            "a reconstruction is already here",
            where=request.output,
            hint="Press Resume to go on with it, or choose another output folder",
        )
    if request.resume and not there:
        raise ReconstructionError(
            "there is nothing to go on with",
            where=request.output,
            hint="Press Reconstruct 4D to start",
        )


def _redraw() -> None:
    manager = bpy.context.window_manager
    for window in manager.windows if manager else ():
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", "PREFERENCES"):
                area.tag_redraw()


@bpy.app.handlers.persistent
def before_load(*_args) -> None:
    SESSION.forget_scene()
