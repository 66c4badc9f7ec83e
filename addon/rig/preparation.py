# SPDX-License-Identifier: GPL-3.0-or-later
"""Undistorting footage in a process of its own: OpenCV is not part of Blender."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bpy

from ...engine.capture.capture import Capture
from ...engine.capture.footage import KINDS, prepared_footage, why_prepared
from ...engine.errors import PeelError
from ..job.interpreter import Interpreter, choose, environment, own_python
from ..job.process import WorkerProcess, tail
from ..preferences import environment_folder, preferences, user_folder

#: Cache folder beside a capture.
FOLDER_NAME = "peel4d_footage"
_POLL_SECONDS = 0.25
_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
#: An extension is a folder of files, not an installed package: make it known, then run the module.
_BOOT = """
import importlib.util, pathlib, runpy, sys
folder = pathlib.Path(sys.argv.pop(1))
sys.path[:] = [entry for entry in sys.path if entry]
spec = importlib.util.spec_from_file_location(
    "peel4d", folder / "__init__.py", submodule_search_locations=[str(folder)])
sys.modules["peel4d"] = package = importlib.util.module_from_spec(spec)
sys.dont_write_bytecode = True
spec.loader.exec_module(package)
runpy.run_module("peel4d.engine.capture.footage", run_name="__main__", alter_sys=True)
"""


@dataclass
class Preparation:
    """A running process and what it has said. scene: name of the scene that waits for it."""

    process: WorkerProcess
    log: Path
    scene: str
    done: int = 0
    total: int = 0
    error: str = ""
    finished: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def fraction(self) -> float:
        return self.done / self.total if self.total else 0.0

    def poll(self) -> bool:
        """Take what has been said; True when files have become ready or the process has ended."""
        code = self.process.poll()
        ready = False
        for event in self.process.events():
            kind = event["event"]
            if kind == "progress":
                self.done, self.total = int(event["step"]), int(event["total"])
            elif kind == "finished":
                ready = True
            elif kind == "warning":
                self.warnings = [*self.warnings, str(event["message"])][-20:]
            elif kind == "error":
                self.error = str(event["message"])
            elif kind == "done":
                self.finished = True
        if code is not None and not self.finished and not self.error:
            self.error = tail(self.log) or f"The process ended with exit code {code}"
        if code is not None:
            self.process.close()
        return ready or code is not None


@dataclass
class _Session:
    """The one process that may run, and the last word of the one before."""

    running: Preparation | None = None
    message: str = ""


_session = _Session()


def current() -> Preparation | None:
    return _session.running


def last_message() -> str:
    """Why the last preparation failed, or what it could not read; "" without trouble."""
    return _session.message


def cache_folder(capture: Capture) -> Path:
    """Where prepared footage of a capture lies: beside it, or among the user's files where the
    capture's folder may not be written."""
    folder = capture.path if capture.path.is_dir() else capture.path.parent
    beside = folder / FOLDER_NAME
    if beside.is_dir() or os.access(folder, os.W_OK):
        return beside
    return user_folder() / "footage" / folder.name


def wanted_views(capture: Capture, names: Sequence[str]) -> list[str]:
    """Those of the views that cannot be shown as they are and are not prepared yet."""
    cache = cache_folder(capture)
    return [
        view.name
        for index, view in enumerate(capture.views)
        if view.name in names
        and any(
            why_prepared(capture, index, kind)
            and prepared_footage(capture, index, kind, cache) is None
            for kind in KINDS
        )
    ]


def _interpreter() -> Interpreter:
    """Blender's own Python where it has OpenCV, else the one that reconstructs.

    Raises PeelError when there is none of them.
    """
    own = own_python()
    if own is not None and importlib.util.find_spec("cv2") is not None:
        return Interpreter(own, "Blender")
    try:
        return choose(preferences().interpreter, environment_folder())
    except PeelError as error:
        raise PeelError(
            "no Python with OpenCV was found to undistort the footage with", hint=error.hint
        ) from error


def start(
    scene: bpy.types.Scene, capture: Capture, names: Sequence[str], size: tuple[int, int] | None
) -> Preparation:
    """Prepare the footage of views in the background; an earlier process is ended.

    Raises PeelError where no process can be started.
    """
    stop()
    cache = cache_folder(capture)
    log = Path(tempfile.gettempdir()) / f"peel4d-footage-{os.getpid()}.log"
    log.unlink(missing_ok=True)
    python = _interpreter()
    command = [str(python.path), "-c", _BOOT, str(_PACKAGE_FOLDER), str(capture.path), str(cache)]
    command += ["--parent", str(os.getpid())]
    if size is not None:
        command += ["--size", str(size[0]), str(size[1])]
    command += ["--views", *names]
    try:
        process = WorkerProcess(command, log=log, environment=environment(python))
    except OSError as error:
        raise PeelError(
            f"cannot be started ({error.strerror or error})",
            where=python.path,
            hint="Choose a Python with OpenCV in the preferences of Peel4D",
        ) from error
    _session.running = Preparation(process, log, scene.name)
    _session.message = ""
    if not bpy.app.timers.is_registered(_poll):
        bpy.app.timers.register(_poll, first_interval=_POLL_SECONDS)
    return _session.running


def wait() -> None:
    """Until the running preparation has ended; for scripts and background runs."""
    while _session.running is not None:
        _session.running.process.wait(_POLL_SECONDS)
        _poll()


def stop() -> None:
    """End the running process; what it has written is kept."""
    if bpy.app.timers.is_registered(_poll):
        bpy.app.timers.unregister(_poll)
    if _session.running is not None:
        _session.running.process.kill()
        _session.running.process.close()
        _session.running = None


def _poll() -> float | None:
    running = _session.running
    if running is None:
        return None
    ready = running.poll()
    if ready:
        scene = bpy.data.scenes.get(running.scene)
        if scene is not None:
            from .build import refresh_backgrounds

            try:
                refresh_backgrounds(scene)
            except PeelError as error:
                _session.message = str(error)
    if running.finished or running.error:
        _session.message = running.error or "; ".join(running.warnings)
        running.process.close()
        _session.running = None
    _redraw()
    return None if _session.running is None else _POLL_SECONDS


def _redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


@bpy.app.handlers.persistent
def _stop_before_load(*_: object) -> None:
    stop()


def register() -> None:
    bpy.app.handlers.load_pre.append(_stop_before_load)


def unregister() -> None:
    bpy.app.handlers.load_pre.remove(_stop_before_load)
    stop()
