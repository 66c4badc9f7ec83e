# SPDX-License-Identifier: GPL-3.0-or-later
"""`Scene.peel4d_rig`: the capture of a scene, its views, and what the health check found."""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    IntVectorProperty,
    PointerProperty,
    StringProperty,
)

from ..property_changes import is_camera, rig_display_changed, test_view_changed

#: Since 4.5 a property has to say that `//` is meant; before, the word is unknown and // works.
_BLEND_RELATIVE = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()


class Peel4DRigView(bpy.types.PropertyGroup):
    """A view of the capture; `name` is the view's name there."""

    camera: PointerProperty(
        name="Camera",
        description="The camera that stands for this view",
        type=bpy.types.Object,
        poll=is_camera,
    )
    enabled: BoolProperty(
        name="Use",
        description="Reconstruct from this view",
        default=True,
        options=set(),
    )
    test: BoolProperty(
        name="Test View",
        description="Held out of the training; its images measure the result",
        default=False,
        options=set(),
        update=test_view_changed,
    )
    frames: IntProperty(name="Frames", description="Images on disk", min=0, options=set())
    masks: IntProperty(name="Masks", description="Masks on disk", min=0, options=set())
    lens: StringProperty(name="Lens", description="pinhole or fisheye", options=set())
    is_distorted: BoolProperty(
        name="Distorted", description="The lens bends straight lines", options=set()
    )
    note: StringProperty(
        name="Note",
        description="Why the footage is not shown as it will be reconstructed",
        options=set(),
    )
    is_static: BoolProperty(name="Static", description="Does not move", options=set())
    calibrated: FloatVectorProperty(
        name="Calibration",
        description="Matrix in the rig (row by row), focal lengths and principal point in pixels",
        size=20,
        options={"HIDDEN"},
    )


class Peel4DRigFinding(bpy.types.PropertyGroup):
    """A finding of the health check."""

    severity: EnumProperty(
        name="Severity",
        items=(
            ("error", "Error", "Cannot be reconstructed like this"),
            ("warning", "Warning", "Probably wrong"),
            ("note", "Note", "Good to know"),
        ),
        options=set(),
    )
    text: StringProperty(name="Text", options=set())
    where: StringProperty(name="Where", options=set())


class Peel4DRigProperties(bpy.types.PropertyGroup):
    """`Scene.peel4d_rig`."""

    capture_path: StringProperty(
        name="Capture",
        description="Folder or calibration file that is reconstructed",
        subtype="FILE_PATH",
        options=_BLEND_RELATIVE,
    )
    size: IntVectorProperty(
        name="Image Size",
        description="Of captures that do not state it; 0 = stated",
        size=2,
        min=0,
        options=set(),
    )
    root: PointerProperty(
        name="Rig",
        description="The empty that carries the cameras: what is its child is in the capture's "
        "own coordinates",
        type=bpy.types.Object,
    )
    format: StringProperty(name="Format", options=set())
    fps: FloatProperty(name="Frames per Second", default=30.0, options=set())
    frame_start: IntProperty(
        name="Start Frame",
        description="Scene frame of the capture's first frame",
        default=1,
        options=set(),
    )
    frame_count: IntProperty(name="Frames", min=0, options=set())
    first_label: IntProperty(name="First Frame Number", options=set())
    views: CollectionProperty(type=Peel4DRigView)
    active_view: IntProperty(name="View", min=0, options=set())
    findings: CollectionProperty(type=Peel4DRigFinding)
    show: EnumProperty(
        name="Background",
        description="What the cameras show behind or before the scene",
        items=(
            ("IMAGES", "Footage", "The images of the capture"),
            ("MASKS", "Masks", "The foreground masks of the capture"),
            ("NONE", "Nothing", "No background"),
        ),
        default="IMAGES",
        options=set(),
        update=rig_display_changed,
    )
    opacity: FloatProperty(
        name="Opacity",
        description="Of the backgrounds",
        default=1.0,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
        options=set(),
        update=rig_display_changed,
    )
    depth: EnumProperty(
        name="Depth",
        description="Where the footage is drawn",
        items=(
            ("BACK", "Behind", "Behind all objects"),
            ("FRONT", "In Front", "Over all objects"),
        ),
        default="BACK",
        options=set(),
        update=rig_display_changed,
    )


CLASSES = (Peel4DRigView, Peel4DRigFinding, Peel4DRigProperties)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.peel4d_rig = PointerProperty(type=Peel4DRigProperties)


def unregister() -> None:
    del bpy.types.Scene.peel4d_rig
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
