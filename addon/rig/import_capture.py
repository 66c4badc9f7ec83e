# SPDX-License-Identifier: GPL-3.0-or-later
"""File > Import > Multi-view Capture, and drops of calibration files."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import (
    BoolProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    IntVectorProperty,
    StringProperty,
)
from bpy_extras.io_utils import ImportHelper

from ...engine.capture.capture import Capture
from ...engine.errors import CaptureError, PeelError
from ..import_clip import UP_AXES
from . import preparation
from .build import import_rig

UP_ITEMS = (
    ("AUTO", "Automatic", "As the capture says, else as its cameras suggest"),
    *((axis, axis, "") for axis in UP_AXES),
)
SCALE_TEXT = "Blender units per unit of the capture; 0 = chosen so that the cameras are near"


class Peel4DImportCapture(bpy.types.Operator, ImportHelper):
    """Import a multi-view capture: its cameras with their footage as backgrounds"""

    bl_idname = "import_scene.peel4d_capture"
    bl_label = "Import Multi-view Capture"
    bl_options = {"REGISTER", "UNDO", "PRESET"}  # noqa: RUF012 (Blender's own attribute)

    filter_glob: StringProperty(default="*.json;*.yml;*.yaml", options={"HIDDEN"})
    # A drop sets it; what an import before it has set must not count then.
    filepath: StringProperty(
        name="Path",
        description="Folder of the capture, or its calibration file",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )
    up: EnumProperty(
        name="Up",
        description="Axis of the capture that becomes Blender's Z",
        items=UP_ITEMS,
        default="AUTO",
    )
    scale: FloatProperty(name="Scale", description=SCALE_TEXT, default=0.0, min=0.0, precision=4)
    frame_start: IntProperty(
        name="Start Frame", description="Scene frame of the first frame", default=1
    )
    size: IntVectorProperty(
        name="Image Size",
        description="Width and height, for captures that do not state them; 0 = stated",
        size=2,
        default=(0, 0),
        min=0,
        max=1 << 20,
        options={"SKIP_SAVE"},
    )
    relative_path: BoolProperty(
        name="Relative Path",
        description="Store the path relative to the .blend file",
        default=True,
    )
    set_frame_range: BoolProperty(
        name="Set Frame Range",
        description="Give the scene the start and the end of the capture",
        default=True,
    )
    set_frame_rate: BoolProperty(
        name="Set Frame Rate", description="Give the scene the capture's frame rate", default=True
    )
    undistort: BoolProperty(
        name="Undistort",
        description="Undistort the footage in the background where the lens needs it",
        default=True,
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if self.filepath:  # dropped
            return self.execute(context)
        return super().invoke(context, event)

    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        try:
            if not self.filepath:
                raise CaptureError(
                    "no capture was chosen", hint="Choose a folder or a calibration file"
                )
            imported = import_rig(
                scene,
                context.collection,
                Path(bpy.path.abspath(self.filepath)),
                size=tuple(self.size) if all(self.size) else None,
                up=self.up,
                scale=self.scale,
                frame_start=self.frame_start,
                relative_path=self.relative_path,
                set_frame_range=self.set_frame_range,
                set_frame_rate=self.set_frame_rate,
            )
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        for warning in imported.warnings:
            self.report({"WARNING"}, warning)
        for selected in context.selected_objects:
            selected.select_set(False)
        imported.root.select_set(True)
        context.view_layer.objects.active = imported.root
        # A background run that needs the footage undistorted calls the operator for that.
        if self.undistort and not bpy.app.background:
            undistort_in_background(self, scene, imported.capture)
        found = [f.severity for f in scene.peel4d_rig.findings if f.severity != "note"]
        if found:
            self.report(
                {"WARNING"}, f"The health check found {len(found)} problem(s), see the panel"
            )
        return {"FINISHED"}


def undistort_in_background(
    operator: bpy.types.Operator, scene: bpy.types.Scene, capture: Capture
) -> bool:
    """Start undistorting what needs it; whether anything did."""
    rig = scene.peel4d_rig
    names = preparation.wanted_views(capture, [item.name for item in rig.views])
    if not names:
        return False
    try:
        preparation.start(scene, capture, names, tuple(rig.size) if all(rig.size) else None)
    except PeelError as error:
        operator.report({"WARNING"}, str(error))
        return False
    return True


CLASSES: tuple[type, ...] = (Peel4DImportCapture,)

#: Drag and drop came with Blender 4.1.
if hasattr(bpy.types, "FileHandler"):

    class PEEL4D_FH_capture(bpy.types.FileHandler):
        bl_idname = "PEEL4D_FH_capture"
        bl_label = "Multi-view Capture"
        bl_import_operator = Peel4DImportCapture.bl_idname
        bl_file_extensions = ".json;.yml;.yaml"

        @classmethod
        def poll_drop(cls, context: bpy.types.Context) -> bool:
            return context.area is not None and context.area.type in ("VIEW_3D", "OUTLINER")

    CLASSES += (PEEL4D_FH_capture,)


def _menu_entry(self, _context) -> None:
    self.layout.operator(Peel4DImportCapture.bl_idname, text="Multi-view Capture")


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.TOPBAR_MT_file_import.append(_menu_entry)


def unregister() -> None:
    bpy.types.TOPBAR_MT_file_import.remove(_menu_entry)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
