# SPDX-License-Identifier: GPL-3.0-or-later
"""What people do with a rig: import, place, look through, check, undistort, relocate, export."""

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
from bpy_extras.io_utils import ExportHelper, ImportHelper

from ...engine.capture.detect import open_capture
from ...engine.capture.health import examine
from ...engine.errors import CaptureError, PeelError
from ..cameras import use_captured_format
from ..import_clip import UP_AXES
from . import preparation
from .build import (
    automatic_scale,
    count_files,
    import_rig,
    open_rig_capture,
    placement,
    refresh_backgrounds,
    set_findings,
    stored_path,
    up_direction,
)
from .export import rig_file_path, rig_from_cameras, use_cameras

_UP_ITEMS = (
    ("AUTO", "Automatic", "As the capture says, else as its cameras suggest"),
    *((axis, axis, "") for axis in UP_AXES),
)
_SCALE = "Blender units per unit of the capture; 0 = chosen so that the cameras are near"


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
        items=_UP_ITEMS,
        default="AUTO",
    )
    scale: FloatProperty(name="Scale", description=_SCALE, default=0.0, min=0.0, precision=4)
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
            _start_preparation(self, scene, imported.capture)
        found = [f.severity for f in scene.peel4d_rig.findings if f.severity != "note"]
        if found:
            self.report(
                {"WARNING"}, f"The health check found {len(found)} problem(s), see the panel"
            )
        return {"FINISHED"}


def _start_preparation(operator: bpy.types.Operator, scene: bpy.types.Scene, capture) -> bool:
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
        items=_UP_ITEMS,
        default="AUTO",
    )
    scale: FloatProperty(name="Scale", description=_SCALE, default=0.0, min=0.0, precision=4)

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
        if not _start_preparation(self, scene, capture):
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
        rig.capture_path = stored_path(path) if self.relative_path else str(path)
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
    Peel4DImportCapture,
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
