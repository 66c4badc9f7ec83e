# SPDX-License-Identifier: GPL-3.0-or-later
"""What people do with a rig: place, look through, check, undistort, relocate, hand over."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import (
    BoolProperty,
    EnumProperty,
    FloatProperty,
    StringProperty,
)
from bpy_extras.io_utils import ExportHelper, ImportHelper

from ...engine.capture.detect import open_capture
from ...engine.capture.health import examine
from ...engine.errors import PeelError
from ..blend_paths import stored_path
from ..cameras import use_captured_format
from . import preparation
from .build import (
    automatic_scale,
    count_files,
    open_rig_capture,
    placement,
    refresh_backgrounds,
    set_findings,
    up_direction,
)
from .export import rig_file_path, use_cameras
from .from_cameras import rig_from_cameras
from .import_capture import SCALE_TEXT, UP_ITEMS, undistort_in_background


class _RigOperator:
    """Needs a rig; errors become reports."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(context.scene.peel4d_rig.views)

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            return self.run(context) or {"FINISHED"}
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}


class Peel4DPlaceRig(_RigOperator, bpy.types.Operator):
    """Turn and scale the rig: which axis of the capture is up, and how large it is"""

    bl_idname = "scene.peel4d_rig_place"
    bl_label = "Place Rig"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    up: EnumProperty(
        name="Up",
        description="Axis of the capture that becomes Blender's Z",
        items=UP_ITEMS,
        default="AUTO",
    )
    scale: FloatProperty(name="Scale", description=SCALE_TEXT, default=0.0, min=0.0, precision=4)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(context.scene.peel4d_rig.root)

    def run(self, context: bpy.types.Context) -> None:
        root = context.scene.peel4d_rig.root
        capture = open_rig_capture(context.scene)
        location = root.matrix_basis.translation.copy()
        before = sum(root.matrix_basis.to_scale()) / 3.0
        scale = self.scale or automatic_scale(capture)
        matrix = placement(up_direction(capture, self.up), scale)
        matrix.translation = location
        root.matrix_basis = matrix
        for item in context.scene.peel4d_rig.views:
            if item.camera is not None and before > 0:
                item.camera.data.clip_start *= scale / before
                item.camera.data.clip_end *= scale / before


class Peel4DLookThrough(_RigOperator, bpy.types.Operator):
    """Look through the camera of a view, in the format that it was captured with"""

    bl_idname = "scene.peel4d_rig_look"
    bl_label = "Look Through"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    view: StringProperty(name="View", description="Name of the view")

    def run(self, context: bpy.types.Context) -> None:
        rig = context.scene.peel4d_rig
        index = rig.views.find(self.view)
        camera = rig.views[index].camera if index >= 0 else None
        if camera is None or camera.name not in context.scene.objects:
            raise PeelError(
                "has no camera in this scene",
                where=f"view '{self.view}'",
                hint="It was deleted; undo that, or import the capture again",
            )
        rig.active_view = index
        context.scene.camera = camera
        if camera.data.peel4d.width:
            use_captured_format(context.scene, camera.data)
        space = _viewport(context)
        if space is not None:
            space.region_3d.view_perspective = "CAMERA"
            space.region_3d.view_camera_offset = (0.0, 0.0)
            if space.use_local_camera:
                space.camera = camera


def _viewport(context: bpy.types.Context) -> bpy.types.SpaceView3D | None:
    """The viewport of this panel, else the largest one of the window; None without a window."""
    if context.space_data is not None and context.space_data.type == "VIEW_3D":
        return context.space_data
    areas = context.screen.areas if context.screen is not None else ()
    largest = max(
        (a for a in areas if a.type == "VIEW_3D"), key=lambda a: a.width * a.height, default=None
    )
    return largest.spaces.active if largest is not None else None


class Peel4DCheckRig(_RigOperator, bpy.types.Operator):
    """Read the capture again, open its images and masks, and list what looks wrong"""

    bl_idname = "scene.peel4d_rig_check"
    bl_label = "Check Capture"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    def run(self, context: bpy.types.Context) -> None:
        rig = context.scene.peel4d_rig
        findings = examine(open_rig_capture(context.scene))
        set_findings(rig, findings)
        counts = [sum(f.severity == s for f in findings) for s in ("error", "warning", "note")]
        names = ("error(s)", "warning(s)", "note(s)")
        text = ", ".join(f"{n} {name}" for n, name in zip(counts, names, strict=True) if n)
        self.report({"INFO"}, text or "Nothing looks wrong")


class Peel4DUndistort(_RigOperator, bpy.types.Operator):
    """Write undistorted copies of the footage, in the background, and show them"""

    bl_idname = "scene.peel4d_rig_undistort"
    bl_label = "Undistort Footage"
    bl_options = {"REGISTER"}  # noqa: RUF012 (Blender's own attribute)

    def run(self, context: bpy.types.Context) -> None:
        scene = context.scene
        capture = open_rig_capture(scene)
        if not undistort_in_background(self, scene, capture):
            refresh_backgrounds(scene)
            return
        if bpy.app.background:
            preparation.wait()
            if preparation.last_message():
                self.report({"WARNING"}, preparation.last_message())


class Peel4DCancelUndistort(bpy.types.Operator):
    """Stop undistorting; what is done is kept"""

    bl_idname = "scene.peel4d_rig_undistort_cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return preparation.current() is not None

    def execute(self, _context: bpy.types.Context) -> set[str]:
        preparation.stop()
        return {"FINISHED"}


class Peel4DRelocateCapture(_RigOperator, bpy.types.Operator, ImportHelper):
    """Say where the capture lies now; cameras and marks stay as they are"""

    bl_idname = "scene.peel4d_rig_relocate"
    bl_label = "Relocate Capture"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    filter_glob: StringProperty(default="*.json;*.yml;*.yaml", options={"HIDDEN"})
    relative_path: BoolProperty(
        name="Relative Path",
        description="Store the path relative to the .blend file",
        default=True,
    )

    def run(self, context: bpy.types.Context) -> None:
        rig = context.scene.peel4d_rig
        path = Path(bpy.path.abspath(self.filepath)).absolute()
        capture = open_capture(path, size=tuple(rig.size) if all(rig.size) else None)
        for item in rig.views:
            capture.view_index(item.name)  # or refuse: another capture
        rig.capture_path = stored_path(path, relative=self.relative_path)
        rig.frame_count = len(capture.frames)
        rig.first_label = capture.frames[0]
        count_files(rig, capture)
        set_findings(rig, examine(capture, check_images=False))
        refresh_backgrounds(context.scene)


class Peel4DUseBlenderCameras(_RigOperator, bpy.types.Operator, ExportHelper):
    """Write the cameras as they are now to a rig file, which is reconstructed from now on"""

    bl_idname = "scene.peel4d_rig_use_cameras"
    bl_label = "Use Blender Cameras"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    filename_ext = ".json"
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})
    filepath: StringProperty(
        name="Rig File", description="Written with the cameras", subtype="FILE_PATH"
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self.filepath = str(rig_file_path(context.scene))
        return super().invoke(context, event)

    def run(self, context: bpy.types.Context) -> None:
        scene = context.scene
        path = Path(bpy.path.abspath(self.filepath)) if self.filepath else rig_file_path(scene)
        written = use_cameras(scene, path)
        set_findings(scene.peel4d_rig, examine(open_rig_capture(scene), check_images=False))
        self.report({"INFO"}, f"{len(scene.peel4d_rig.views)} cameras written to {written}")


class Peel4DRigFromCameras(_RigOperator, bpy.types.Operator):
    """Make the selected cameras the rig; their background images are the footage"""

    bl_idname = "scene.peel4d_rig_from_cameras"
    bl_label = "Rig from Cameras"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return True  # there is no rig yet

    def run(self, context: bpy.types.Context) -> None:
        rig_from_cameras(context.scene, context.selected_objects)


class Peel4DMarkViews(_RigOperator, bpy.types.Operator):
    """Enable views, or mark them for testing"""

    bl_idname = "scene.peel4d_rig_mark"
    bl_label = "Mark Views"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    action: EnumProperty(
        name="Action",
        items=(
            ("ENABLE", "Enable All", "Reconstruct from all views"),
            ("DISABLE", "Disable All", "Use none"),
            ("INVERT", "Invert", "Enable what is disabled and the other way round"),
            ("TRAIN", "Train on All", "Hold no view out"),
        ),
    )

    def run(self, context: bpy.types.Context) -> None:
        for item in context.scene.peel4d_rig.views:
            if self.action == "TRAIN":
                item.test = False
            elif self.action == "INVERT":
                item.enabled = not item.enabled
            else:
                item.enabled = self.action == "ENABLE"


CLASSES = (
    Peel4DPlaceRig,
    Peel4DLookThrough,
    Peel4DCheckRig,
    Peel4DUndistort,
    Peel4DCancelUndistort,
    Peel4DRelocateCapture,
    Peel4DUseBlenderCameras,
    Peel4DRigFromCameras,
    Peel4DMarkViews,
)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
