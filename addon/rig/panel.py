# SPDX-License-Identifier: GPL-3.0-or-later
"""The tab "Peel4D" of the 3D viewport: the rig."""

from __future__ import annotations

import textwrap
from pathlib import Path

import bpy

from ..blend_paths import absolute
from . import operators, preparation
from .export import edited_views
from .import_capture import Peel4DImportCapture

_ICONS = {"error": "CANCEL", "warning": "ERROR", "note": "INFO"}
_SHOWN_FINDINGS = 12


class PEEL4D_UL_views(bpy.types.UIList):
    """The views of the rig."""

    bl_idname = "PEEL4D_UL_views"

    def draw_item(self, _context, layout, _data, item, _icon, _active, _property, _index=0) -> None:
        row = layout.row(align=True)
        row.prop(item, "enabled", text="")
        name = row.row()
        name.active = item.enabled
        name.label(text=item.name, icon="ERROR" if _is_missing(item) else "NONE")
        count = row.row()
        count.alignment = "RIGHT"
        count.active = item.enabled
        count.label(text=str(item.frames))
        marks = row.row(align=True)
        marks.prop(
            item,
            "test",
            text="Test" if item.test else "Train",
            toggle=True,
            icon="HIDE_OFF" if item.test else "NONE",
        )
        look = row.operator(
            operators.Peel4DLookThrough.bl_idname, text="", icon="VIEW_CAMERA", emboss=False
        )
        look.view = item.name


def _is_missing(item) -> bool:
    return item.camera is None or not item.camera.users_scene


class _RigPanel:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Peel4D"


class PEEL4D_PT_rig(_RigPanel, bpy.types.Panel):
    bl_label = "Rig"
    bl_order = 0

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        rig = context.scene.peel4d_rig
        if not rig.views:
            layout.operator(Peel4DImportCapture.bl_idname, text="Import Capture", icon="IMPORT")
            layout.operator(operators.Peel4DRigFromCameras.bl_idname, icon="OUTLINER_OB_CAMERA")
            return
        _draw_capture(layout, rig)
        layout.template_list("PEEL4D_UL_views", "", rig, "views", rig, "active_view", rows=5)
        layout.operator_menu_enum(operators.Peel4DMarkViews.bl_idname, "action", text="Mark")
        used = [item for item in rig.views if item.enabled]
        tests = sum(item.test for item in used)
        layout.label(text=f"{len(used) - tests} to train, {tests} to test, {len(rig.views)} in all")
        if 0 <= rig.active_view < len(rig.views):
            _draw_view(layout, rig.views[rig.active_view])
        edited = edited_views(context.scene)
        if edited or not rig.capture_path:
            box = layout.box()
            if edited:
                _lines(
                    box, context, f"{len(edited)} camera(s) differ from the capture", icon="ERROR"
                )
            box.operator(operators.Peel4DUseBlenderCameras.bl_idname, icon="EXPORT")


def _draw_capture(layout: bpy.types.UILayout, rig) -> None:
    row = layout.row(align=True)
    path = Path(absolute(rig.capture_path, rig.id_data)) if rig.capture_path else None
    is_missing = path is not None and not path.exists()
    row.alert = is_missing
    if path is None:
        row.label(text="Not written yet", icon="OUTLINER_OB_CAMERA")
    else:
        row.prop(rig, "capture_path", text="")
    row.operator(operators.Peel4DRelocateCapture.bl_idname, text="", icon="FILEBROWSER")
    if is_missing:
        layout.label(text="The capture is missing", icon="ERROR")
    layout.label(text=f"{rig.format}: {rig.frame_count} frames, {rig.fps:g} fps")


def _draw_view(layout: bpy.types.UILayout, item) -> None:
    column = layout.column(align=True)
    if _is_missing(item):
        column.label(text="The camera was deleted", icon="ERROR")
        return
    data = item.camera.data
    lens = item.lens or "pinhole"
    column.label(
        text=f"{data.peel4d.width} x {data.peel4d.height}, {lens}"
        + (", distorted" if item.is_distorted else "")
    )
    column.label(text=f"{item.frames} images, {item.masks} masks")
    look = layout.operator(operators.Peel4DLookThrough.bl_idname, icon="VIEW_CAMERA")
    look.view = item.name


class PEEL4D_PT_rig_backgrounds(_RigPanel, bpy.types.Panel):
    bl_label = "Footage"
    bl_parent_id = "PEEL4D_PT_rig"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(context.scene.peel4d_rig.views)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        rig = context.scene.peel4d_rig
        # The width of the whole panel, or the names are cut off.
        kinds = layout.row(align=True)
        kinds.use_property_split = False
        kinds.prop(rig, "show", expand=True)
        layout.prop(rig, "opacity")
        layout.prop(rig, "depth", expand=True)
        running = preparation.current()
        if running is not None:
            row = layout.row(align=True)
            row.progress(
                text=f"Undistorting {running.done} / {running.total}", factor=running.fraction
            )
            row.operator(operators.Peel4DCancelUndistort.bl_idname, text="", icon="X")
            return
        notes = sorted({item.note for item in rig.views if item.note})
        for note in notes:
            count = sum(item.note == note for item in rig.views)
            _lines(layout, context, f"{note}; shown as it is ({count} views)", icon="INFO")
        if notes:
            layout.operator(operators.Peel4DUndistort.bl_idname, icon="IMAGE_DATA")
        if preparation.last_message():
            _lines(layout, context, preparation.last_message(), icon="ERROR")


class PEEL4D_PT_rig_placement(_RigPanel, bpy.types.Panel):
    bl_label = "Placement"
    bl_parent_id = "PEEL4D_PT_rig"
    bl_options = {"DEFAULT_CLOSED"}  # noqa: RUF012 (Blender's own attribute)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(context.scene.peel4d_rig.root)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        root = context.scene.peel4d_rig.root
        layout.operator_menu_enum(operators.Peel4DPlaceRig.bl_idname, "up", text="Up Axis")
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(root, "location")
        column.prop(root, "rotation_euler", text="Rotation")
        column.prop(root, "scale")


class PEEL4D_PT_rig_health(_RigPanel, bpy.types.Panel):
    bl_label = "Health Check"
    bl_parent_id = "PEEL4D_PT_rig"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(context.scene.peel4d_rig.views)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        rig = context.scene.peel4d_rig
        if not rig.findings:
            layout.label(text="Nothing looks wrong", icon="CHECKMARK")
        for finding in list(rig.findings)[:_SHOWN_FINDINGS]:
            where = f" [{finding.where}]" if finding.where else ""
            _lines(layout, context, finding.text + where, icon=_ICONS[finding.severity])
        hidden = len(rig.findings) - _SHOWN_FINDINGS
        if hidden > 0:
            layout.label(text=f"... and {hidden} more")
        layout.operator(operators.Peel4DCheckRig.bl_idname, icon="VIEWZOOM")


def _lines(layout: bpy.types.UILayout, context: bpy.types.Context, text: str, *, icon: str) -> None:
    """Text in as many lines as the panel's width needs; Blender's labels do not wrap."""
    scale = context.preferences.system.ui_scale
    width = context.region.width if context.region is not None else 300
    characters = max(20, int((width / scale - 60) / 6.2))
    column = layout.column(align=True)
    column.scale_y = 0.8
    for index, line in enumerate(textwrap.wrap(text, characters) or [""]):
        column.label(text=line, icon=icon if index == 0 else "BLANK1")


CLASSES = (
    PEEL4D_UL_views,
    PEEL4D_PT_rig,
    PEEL4D_PT_rig_backgrounds,
    PEEL4D_PT_rig_placement,
    PEEL4D_PT_rig_health,
)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
