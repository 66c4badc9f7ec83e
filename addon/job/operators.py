# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstruct 4D, cancel, open the log; check and create a Python for it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from ...engine.errors import PeelError, ReconstructionError
from ..blend_paths import stored_path
from ..preferences import environment_folder, online_refusal, preferences
from .interpreter import choose
from .job import State
from .process import tail
from .request import (
    Request,
    finished_clip,
    names,
    next_folder,
    output_folder,
    recipe,
    request_from_scene,
)
from .result import show_clip
from .session import SESSION

#: For an environment with a CUDA build of torch while it is being unpacked; the CPU build needs a
#: quarter of it.
ENVIRONMENT_BYTES = 8e9


class Peel4DReconstruct(bpy.types.Operator):
    """Reconstruct the capture in the background: a clip that plays in the viewport and renders"""

    bl_idname = "peel4d.reconstruct"
    bl_label = "Reconstruct 4D"
    bl_options = {"UNDO"}  # noqa: RUF012 (Blender's own attribute)

    capture: StringProperty(
        name="Capture",
        description="Folder of the capture; empty: that of the scene",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )
    output: StringProperty(
        name="Output",
        description="Folder of the reconstruction; empty: that of the scene",
        subtype="DIR_PATH",
        options={"SKIP_SAVE"},
    )
    preset: StringProperty(
        name="Preset",
        description="draft, standard or high; empty: that of the scene",
        options={"SKIP_SAVE"},
    )
    background: StringProperty(
        name="Scene",
        description="auto, or none for the subject only; empty: that of the scene",
        options={"SKIP_SAVE"},
    )
    frames: StringProperty(
        name="Frames",
        description="a:b for the frames a <= n < b; empty: those of the scene",
        options={"SKIP_SAVE"},
    )
    views: StringProperty(
        name="Views",
        description="Training views, separated by commas; empty: those of the scene",
        options={"SKIP_SAVE"},
    )
    test_views: StringProperty(
        name="Test Views",
        description="Views to hold out, separated by commas; empty: those of the scene",
        options={"SKIP_SAVE"},
    )
    steps: IntProperty(
        name="Steps",
        description="Optimisation steps per frame; 0: as the preset says",
        min=0,
        options={"SKIP_SAVE"},
    )
    resume: BoolProperty(
        name="Resume",
        description="Go on with the reconstruction in the output folder, as it was started",
        options={"SKIP_SAVE"},
    )

    again: BoolProperty(
        name="Again",
        description="Reconstruct into a new folder beside the one of the scene",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def description(cls, _context: bpy.types.Context, properties) -> str:
        if properties.again:
            return "Reconstruct with these settings into a new folder; the other one is kept"
        if properties.resume:
            return "Go on with the reconstruction in the output folder, as it was started"
        return cls.__doc__

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if SESSION.is_active:
            cls.poll_message_set("A reconstruction is running")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            if self.again:
                _choose_next_folder(context.scene)
            SESSION.start(self._request(context.scene), context.scene)
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if bpy.app.background:
            return self._wait()
        self.report({"INFO"}, "Reconstructing in the background")
        return {"FINISHED"}

    def _request(self, scene: bpy.types.Scene) -> Request:
        if self.resume:
            folder = self.output.strip()
            output = Path(bpy.path.abspath(folder)) if folder else output_folder(scene)
            if output is None:
                raise ReconstructionError("no output folder is chosen", hint="Choose one")
            return Request(None, output, resume=True)
        if self.capture.strip() and self.output.strip():
            capture, output = (Path(bpy.path.abspath(p)) for p in (self.capture, self.output))
            request = Request(capture, output, **recipe(scene.peel4d_job))
        else:
            if self.capture.strip():
                scene.peel4d_job.capture_path = self.capture
            if self.output.strip():
                scene.peel4d_job.output = self.output
            request = request_from_scene(scene)
        return replace(
            request,
            preset=self.preset or request.preset,
            background=self.background or request.background,
            frames=self.frames or request.frames,
            views=names(self.views) or request.views,
            test_views=names(self.test_views) or request.test_views,
            steps=self.steps or request.steps,
        )

    def _wait(self) -> set[str]:
        SESSION.run_to_end(lambda text: print(f"Peel4D: {text}", flush=True))
        job = SESSION.job
        for warning in job.warnings:
            self.report({"WARNING"}, warning)
        if job.state is State.DONE:
            self.report({"INFO"}, job.message)
            return {"FINISHED"}
        # In Python `bpy.ops` raises it; a script that does not catch it ends `blender -b`
        # --python-exit-code with that code.
        self.report({"ERROR"}, f"{job.message} (log: {job.log})")
        return {"CANCELLED"}


def _choose_next_folder(scene: bpy.types.Scene) -> None:
    """Have the scene's output go to a new folder, written as the old one was."""
    output = output_folder(scene)
    if output is None:
        raise ReconstructionError("no output folder is chosen", hint="Choose one")
    named = scene.peel4d_job.output.strip()
    scene.peel4d_job.output = stored_path(
        next_folder(output), relative=not named or named.startswith("//")
    )


class Peel4DShowResult(bpy.types.Operator):
    """Add the finished clip of the output folder to the scene, under its rig"""

    bl_idname = "peel4d.show_result"
    bl_label = "Show Its Clip"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    def execute(self, context: bpy.types.Context) -> set[str]:
        clip = finished_clip(output_folder(context.scene))
        if clip is None:
            self.report({"ERROR"}, "There is no finished reconstruction in the output folder")
            return {"CANCELLED"}
        try:
            show_clip(context.scene, clip)
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class Peel4DCancel(bpy.types.Operator):
    """End the reconstruction after this step; everything trained so far is kept"""

    bl_idname = "peel4d.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return SESSION.is_active and SESSION.job.state is not State.CANCELLING

    def execute(self, _context: bpy.types.Context) -> set[str]:
        SESSION.job.cancel()
        return {"FINISHED"}


class Peel4DOpenLog(bpy.types.Operator):
    """Show what the reconstruction has written into its log"""

    bl_idname = "peel4d.open_log"
    bl_label = "Open Log"

    task: BoolProperty(
        name="Interpreter",
        description="The log of the check or the creation of the interpreter instead",
        options={"SKIP_SAVE"},
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        path = _log(context.scene, self.task)
        if path is None or not path.is_file():
            self.report({"ERROR"}, "There is no log yet")
            return {"CANCELLED"}
        if bpy.app.background:
            print(tail(path, 50))
            return {"FINISHED"}
        # As a text inside Blender: not every desktop has a program for .log.
        text = bpy.data.texts.get(path.name) or bpy.data.texts.new(path.name)
        text.from_string(tail(path, 2000))
        if bpy.ops.wm.window_new.poll():
            bpy.ops.wm.window_new()
            area = context.window_manager.windows[-1].screen.areas[0]
            area.type = "TEXT_EDITOR"
            area.spaces.active.text = text
        self.report({"INFO"}, f"{path}")
        return {"FINISHED"}


def _log(scene: bpy.types.Scene, task: bool) -> Path | None:
    if task:
        return SESSION.task.log if SESSION.task is not None else None
    if SESSION.job is not None:
        return SESSION.job.log
    output = output_folder(scene)
    return output / "worker.log" if output is not None else None


class Peel4DCheckPython(bpy.types.Operator):
    """Ask the Python that would reconstruct for its versions and its GPU, in the background"""

    bl_idname = "peel4d.check_python"
    bl_label = "Check"

    def execute(self, _context: bpy.types.Context) -> set[str]:
        stored = preferences()
        try:
            SESSION.check(choose(stored.interpreter, environment_folder()))
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return _finish_task(self)


class Peel4DCreateEnvironment(bpy.types.Operator):
    """Download torch and what else reconstructing needs, with exact versions, into a virtual
    environment of its own; Blender's Python stays as it is"""

    bl_idname = "peel4d.create_environment"
    bl_label = "Create Environment"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if SESSION.task is not None and SESSION.task.is_running:
            cls.poll_message_set("Another check is running")
            return False
        if SESSION.is_active:
            cls.poll_message_set("A reconstruction is running")
            return False
        if refusal := online_refusal():
            cls.poll_message_set(refusal)
            return False
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        folder = environment_folder()
        return context.window_manager.invoke_confirm(
            self,
            event,
            title="Create Environment",
            message=f"Download up to 3 GB into {folder} ({_free_bytes(folder) / 1e9:.0f} GB free)?",
            confirm_text="Create",
        )

    def execute(self, _context: bpy.types.Context) -> set[str]:
        folder = environment_folder()
        free = _free_bytes(folder)
        if free < ENVIRONMENT_BYTES / 4:
            self.report(
                {"ERROR"},
                f"{folder}: {free / 1e9:.1f} GB free, 2 to 8 GB are needed. Choose another folder "
                "for the environment in the preferences",
            )
            return {"CANCELLED"}
        try:
            SESSION.create(folder)
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return _finish_task(self)


class Peel4DCancelTask(bpy.types.Operator):
    """End the check, or the creation of the environment"""

    bl_idname = "peel4d.cancel_task"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return SESSION.task is not None and SESSION.task.is_running

    def execute(self, _context: bpy.types.Context) -> set[str]:
        SESSION.task.cancel()
        return {"FINISHED"}


def _finish_task(operator: bpy.types.Operator) -> set[str]:
    """Without a window there is nobody to look at the result later: wait for it and say it."""
    if not bpy.app.background:
        return {"FINISHED"}
    SESSION.wait_for_task(lambda text: print(f"Peel4D: {text}", flush=True))
    task = SESSION.task
    for line in task.report():
        print(line)
    if task.error or task.missing():
        lacks = task.error or f"it lacks {', '.join(task.missing())}"
        operator.report({"ERROR"}, lacks)
        return {"CANCELLED"}
    return {"FINISHED"}


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


CLASSES = (
    Peel4DReconstruct,
    Peel4DShowResult,
    Peel4DCancel,
    Peel4DOpenLog,
    Peel4DCheckPython,
    Peel4DCreateEnvironment,
    Peel4DCancelTask,
)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
