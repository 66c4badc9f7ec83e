# SPDX-License-Identifier: GPL-3.0-or-later
"""N-panel Peel4D > Reconstruct, and the add-on's preferences."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import bpy

from ...engine.errors import PeelError
from ..preferences import environment_folder, online_refusal
from .interpreter import choose
from .job import Job, State
from .operators import (
    Peel4DCancel,
    Peel4DCancelTask,
    Peel4DCheckPython,
    Peel4DCreateEnvironment,
    Peel4DOpenLog,
    Peel4DReconstruct,
    Peel4DShowResult,
)
from .request import (
    finished_clip,
    has_reconstruction,
    output_folder,
    rig_capture_path,
    uses_rig,
)
from .result import showing
from .session import SESSION

_STAGES = {
    "masks": "Masks",
    "clean plates": "Empty pictures",
    "background": "Background",
    "camera colour": "Camera colours",
    "frames": "Training",
    "joint": "Background and subject",
    "clip": "Writing the clip",
    "evaluate": "Measuring",
}
_ICONS = {
    State.DONE: "CHECKMARK",
    State.CANCELLED: "CANCEL",
    State.FAILED: "ERROR",
    State.CRASHED: "ERROR",
    State.HUNG: "ERROR",
}
#: Seconds that the answer of the file system is believed; panels draw many times a second.
_BELIEVED = 2.0


class PEEL4D_PT_reconstruct(bpy.types.Panel):
    bl_label = "Reconstruct"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Peel4D"
    bl_order = 20

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, context.scene
        settings = layout.column()
        settings.use_property_split = True
        settings.use_property_decorate = False
        settings.enabled = not SESSION.is_active
        _draw_settings(settings, scene)
        job = SESSION.job
        if SESSION.is_active:
            _draw_progress(layout, job)
            return
        output = output_folder(scene)
        row = layout.row(align=True)
        row.scale_y = 1.4
        there, clip = _found_in(output)
        if not there:
            row.operator(Peel4DReconstruct.bl_idname, icon="PLAY")
        elif clip is not None:
            again = row.operator(
                Peel4DReconstruct.bl_idname, text="Reconstruct Again", icon="FILE_REFRESH"
            )
            again.again = True
            if not showing(scene, clip):
                layout.operator(Peel4DShowResult.bl_idname, icon="IMPORT")
        else:
            row.operator(Peel4DReconstruct.bl_idname, text="Resume", icon="PLAY").resume = True
            row.operator(Peel4DReconstruct.bl_idname, text="", icon="ADD").again = True
        if job is not None:
            _draw_end(layout, job)
        elif output is None:
            layout.label(text="Save the file or choose an output", icon="INFO")


def _draw_settings(layout: bpy.types.UILayout, scene: bpy.types.Scene) -> None:
    job = scene.peel4d_job
    if rig_capture_path(scene) and uses_rig(scene):
        used = [view for view in scene.peel4d_rig.views if view.enabled]
        tests = sum(view.test for view in used)
        name = Path(rig_capture_path(scene).rstrip("/\\")).stem
        layout.label(text=f"Rig: {name}", icon="OUTLINER_OB_CAMERA")
        if used:
            layout.label(text=f"{len(used) - tests} training views, {tests} test views")
    else:
        layout.prop(job, "capture_path")
    layout.prop(job, "output")
    layout.prop(job, "preset")
    row = layout.row(heading="Point Spacing")
    row.prop(job, "use_point_pixels", text="")
    field = row.row()
    field.active = job.use_point_pixels
    field.prop(job, "point_pixels", text="")
    layout.prop(job, "background")
    if job.background != "none":
        layout.prop(job, "refine_cameras")
    layout.prop(job, "use_frame_range")
    if job.use_frame_range:
        row = layout.row(align=True)
        row.prop(job, "frame_first", text="First, Last")
        row.prop(job, "frame_last", text="")
    if not uses_rig(scene):
        layout.prop(job, "views")
        layout.prop(job, "test_views")


def _draw_progress(layout: bpy.types.UILayout, job: Job) -> None:
    box = layout.box()
    stage = _STAGES.get(job.stage, job.stage)
    if job.stage in _STAGES:
        stage = f"{list(_STAGES).index(job.stage) + 1}/{len(_STAGES)}  {stage}"
    text = stage if job.state is State.RUNNING and stage else job.message
    percent = f" {100 * job.fraction:.0f} %" if job.state is State.RUNNING and stage else ""
    box.progress(factor=job.fraction, text=f"{text}{percent}")
    column = box.column(align=True)
    if job.state is State.RUNNING and job.eta is not None:
        column.label(text=f"{duration(job.eta)} left", icon="TIME")
    for name, label in (("training_psnr", "Training"), ("test_psnr", "Test views")):
        if name in job.metrics:
            column.label(text=f"{label}: {job.metrics[name]:.2f} dB", icon="IMAGE_DATA")
    if job.process.memory_bytes:
        column.label(text=f"Memory: {job.process.memory_bytes / 2**30:.1f} GB", icon="MEMORY")
    for warning in job.warnings[-2:]:
        _paragraph(box, warning, "INFO")
    row = layout.row(align=True)
    row.operator(Peel4DCancel.bl_idname, icon="X")
    row.operator(Peel4DOpenLog.bl_idname, text="Log", icon="TEXT")


def _draw_end(layout: bpy.types.UILayout, job: Job) -> None:
    box = layout.box()
    box.alert = job.state.is_trouble
    _paragraph(box, job.message, _ICONS.get(job.state, "INFO"))
    for warning in job.warnings[-2:]:
        _paragraph(box, warning, "INFO")
    layout.operator(Peel4DOpenLog.bl_idname, text="Open Log", icon="TEXT")


def _paragraph(layout: bpy.types.UILayout, text: str, icon: str) -> None:
    """Labels do not wrap."""
    column = layout.column(align=True)
    width = max(24, int(bpy.context.region.width / bpy.context.preferences.system.ui_scale / 7.0))
    for number, line in enumerate(textwrap.wrap(text, width - 4)):
        column.label(text=line, icon=icon if number == 0 else "BLANK1")


def duration(seconds: float) -> str:
    """4000 -> "1 h 06 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 10:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


_answer: dict[Path | None, tuple[float, bool, Path | None]] = {}


def _found_in(output: Path | None) -> tuple[bool, Path | None]:
    """Whether a reconstruction is in the folder, and its clip if it is finished; network drives are
    not asked on every redraw."""
    now = time.monotonic()
    if output not in _answer or now - _answer[output][0] >= _BELIEVED:
        _answer.clear()
        _answer[output] = (now, has_reconstruction(output), finished_clip(output))
    return _answer[output][1:]


def draw_preferences(stored: bpy.types.AddonPreferences, layout: bpy.types.UILayout) -> None:
    """The add-on's preferences."""
    layout.use_property_split = True
    layout.use_property_decorate = False
    layout.prop(stored, "interpreter")
    layout.prop(stored, "environment_folder")
    if not stored.environment_folder:
        note = layout.row()
        note.enabled = False
        note.label(text=str(environment_folder()), icon="BLANK1")
    layout.prop(stored, "memory_limit")
    try:
        chosen = choose(
            Path(bpy.path.abspath(stored.interpreter)) if stored.interpreter else None,
            environment_folder(),
        )
        whose = {
            "Blender": "Blender's own Python, which has torch",
            "preferences": "the interpreter above",
            "environment": "the environment",
        }[chosen.source]
        layout.label(text=f"Reconstructs with {whose}", icon="CHECKMARK")
    except PeelError as error:
        _paragraph(layout, str(error), "ERROR")
    row = layout.row()
    row.operator(Peel4DCheckPython.bl_idname, icon="VIEWZOOM")
    row.operator(Peel4DCreateEnvironment.bl_idname, icon="IMPORT")
    if refusal := online_refusal():
        _paragraph(layout, f"Nothing can be downloaded. {refusal}", "INFO")
    if SESSION.task is not None:
        _draw_task(layout.box())


def _draw_task(box: bpy.types.UILayout) -> None:
    task = SESSION.task
    if task.is_running:
        if task.kind == "create":
            box.progress(factor=task.fraction, text=task.message)
        else:
            box.label(text="Checking", icon="TIME")
        box.operator(Peel4DCancelTask.bl_idname, icon="X")
        return
    column = box.column(align=True)
    for line in task.report():
        column.label(text=line)
    if task.missing():
        column.label(text=f"Missing: {', '.join(task.missing())}", icon="ERROR")
    if task.error:
        _paragraph(box, task.error, "ERROR")
        box.operator(Peel4DOpenLog.bl_idname, icon="TEXT").task = True
    elif not task.missing():
        column.label(text="Ready to reconstruct", icon="CHECKMARK")


def register() -> None:
    bpy.utils.register_class(PEEL4D_PT_reconstruct)


def unregister() -> None:
    bpy.utils.unregister_class(PEEL4D_PT_reconstruct)
    _answer.clear()
