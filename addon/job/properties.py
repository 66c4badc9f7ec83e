# SPDX-License-Identifier: GPL-3.0-or-later
"""`Scene.peel4d_job`: what is to be reconstructed, and how."""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

#: Since 4.5 a property has to say that `//` is meant; before, the word is unknown and // works.
_BLEND_RELATIVE = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()

PRESET_ITEMS = (
    ("draft", "Draft", "A quick look: does the rig fit, is the subject complete"),
    ("standard", "Standard", "Good quality"),
    ("high", "High", "Finer points and more steps: sharper, but slower and larger clips"),
)
BACKGROUND_ITEMS = (
    ("auto", "Subject and Background", "Also what does not move, where the cameras see it"),
    ("none", "Subject Only", "What the masks show and nothing else"),
)


class Peel4DJobProperties(bpy.types.PropertyGroup):
    capture_path: StringProperty(
        name="Capture",
        description="Folder or calibration file of the multi-view capture",
        subtype="FILE_PATH",
        options=_BLEND_RELATIVE,
    )
    output: StringProperty(
        name="Output",
        description="Folder of the reconstruction: clip, checkpoints and log. Empty: beside the "
        ".blend file, named after the capture",
        subtype="DIR_PATH",
        options=_BLEND_RELATIVE,
    )
    preset: EnumProperty(
        name="Preset",
        description="Quality against time",
        items=PRESET_ITEMS,
        default="standard",
        options=set(),
    )
    use_point_pixels: BoolProperty(
        name="Point Spacing",
        description="Choose how far apart the subject's points are, instead of the preset",
        default=False,
        options=set(),
    )
    point_pixels: FloatProperty(
        name="Pixels",
        description="Distance of the subject's points in pixels of the median camera. More: "
        "smaller clips; less: near things are sharper, for more time and memory",
        default=2.4,
        min=0.5,
        max=50.0,
        soft_min=1.0,
        soft_max=6.0,
        precision=1,
        step=10,
        options=set(),
    )
    background: EnumProperty(
        name="Scene",
        description="What is reconstructed",
        items=BACKGROUND_ITEMS,
        default="auto",
        options=set(),
    )
    refine_cameras: BoolProperty(
        name="Refine Cameras",
        description="Turn cameras by fractions of a pixel where the background shows that the "
        "calibration is off; the clip's cameras are the corrected ones",
        default=True,
        options=set(),
    )
    use_frame_range: BoolProperty(
        name="Frame Range",
        description="Reconstruct some frames of the capture only",
        default=False,
        options=set(),
    )
    frame_first: IntProperty(
        name="First",
        description="Number of the first frame, as the capture counts",
        default=0,
        min=0,
        options=set(),
    )
    frame_last: IntProperty(
        name="Last",
        description="Number of the last frame, as the capture counts",
        default=9,
        min=0,
        options=set(),
    )
    views: StringProperty(
        name="Views",
        description="Names of the training views, separated by commas; empty: all",
        options=set(),
    )
    test_views: StringProperty(
        name="Test Views",
        description="Names of views to hold out and measure against, separated by commas; empty: "
        "those that the capture names",
        options=set(),
    )


def register() -> None:
    bpy.utils.register_class(Peel4DJobProperties)
    bpy.types.Scene.peel4d_job = PointerProperty(type=Peel4DJobProperties)


def unregister() -> None:
    del bpy.types.Scene.peel4d_job
    bpy.utils.unregister_class(Peel4DJobProperties)
