# SPDX-License-Identifier: GPL-3.0-or-later
"""What Peel4D stores in a .blend file: on clip objects, on captured cameras and on the scene.

The classes have no methods: see property_changes.py on what Blender 4.2 keeps of them.
"""

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

from ..engine.render.settings import DEFAULT_SAMPLES
from .property_changes import clip_changed, clip_path_changed, follow_crop_object, viewports_changed

#: Since 4.5 a property has to say that `//` is meant; before, the word is unknown and // works.
_BLEND_RELATIVE = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()
#: Linked clips can be changed in the file that links them.
_OVERRIDE = {"LIBRARY_OVERRIDABLE"}


class Peel4DClipProperties(bpy.types.PropertyGroup):
    """`Object.peel4d`: the clip that an object shows, and when."""

    is_clip: BoolProperty(
        name="Clip",
        description="This object shows a Peel4D clip",
        default=False,
        options=set(),
        override=_OVERRIDE,
        update=clip_changed,
    )
    filepath: StringProperty(
        name="File",
        description="The clip (.p4d)",
        subtype="FILE_PATH",
        options=_BLEND_RELATIVE,
        override=_OVERRIDE,
        update=clip_path_changed,
    )
    blend_folder: StringProperty(
        name="Folder",
        description="Of the .blend file that a relative path was written in",
        options={"HIDDEN"},
    )
    show_background: BoolProperty(
        name="Background",
        description="Show what does not move in the clip, too, not its subject alone",
        default=True,
        override=_OVERRIDE,
        update=clip_changed,
    )
    opacity: FloatProperty(
        name="Opacity",
        description="Multiplies the density of every point",
        default=1.0,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
        override=_OVERRIDE,
        update=clip_changed,
    )
    exposure: FloatProperty(
        name="Exposure",
        description="Brightens or darkens the clip, in stops of its display-referred colours",
        default=0.0,
        soft_min=-3.0,
        soft_max=3.0,
        min=-10.0,
        max=10.0,
        override=_OVERRIDE,
        update=clip_changed,
    )
    saturation: FloatProperty(
        name="Saturation",
        description="0 is grey, 1 as captured",
        default=1.0,
        min=0.0,
        soft_max=2.0,
        max=10.0,
        override=_OVERRIDE,
        update=clip_changed,
    )
    crop_object: PointerProperty(
        name="Crop Box",
        description="Show only the points inside this object's bounding box, which can be animated",
        type=bpy.types.Object,
        update=follow_crop_object,
        override=_OVERRIDE,
    )
    crop_motion: FloatProperty(
        name="Crop Box Motion",
        description="Has a driver that tells Blender about the crop box",
        options={"HIDDEN", "ANIMATABLE"},
        override=_OVERRIDE,
    )
    point_density: FloatProperty(
        name="Points",
        description="Share of the points that is shown; the others are left out evenly",
        default=1.0,
        min=0.01,
        max=1.0,
        subtype="FACTOR",
        options=set(),
        override=_OVERRIDE,
        update=clip_changed,
    )
    frame_start: FloatProperty(
        name="Start Frame",
        description="Scene frame that shows the first played frame of the clip",
        default=1.0,
        step=100,
        precision=1,
        options=set(),
        override=_OVERRIDE,
        update=clip_changed,
    )
    frame_offset: IntProperty(
        name="Offset",
        description="Number of clip frames to leave out at the beginning",
        default=0,
        min=0,
        options=set(),
        override=_OVERRIDE,
        update=clip_changed,
    )
    speed: FloatProperty(
        name="Speed",
        description="Clip frames per scene frame; animate Frame instead for changing speed",
        default=1.0,
        min=0.001,
        soft_max=10.0,
        options=set(),
        override=_OVERRIDE,
        update=clip_changed,
    )
    sequence_mode: EnumProperty(
        name="Mode",
        description="What is shown before the first and after the last frame of the clip",
        items=(
            ("CLIP", "Clip", "Nothing"),
            ("EXTEND", "Extend", "The first or the last frame"),
            ("REPEAT", "Repeat", "The clip again from its start"),
            ("PING_PONG", "Ping-Pong", "The clip backwards, then forwards again"),
        ),
        default="CLIP",
        options=set(),
        override=_OVERRIDE,
        update=clip_changed,
    )
    override_frame: BoolProperty(
        name="Override Frame",
        description="Show one given frame, which can be animated, instead of playing",
        default=False,
        options=set(),
        override=_OVERRIDE,
        update=clip_changed,
    )
    frame: FloatProperty(
        name="Frame",
        description="The clip frame to show, counted from 0",
        default=0.0,
        min=0.0,
        override=_OVERRIDE,
        update=clip_changed,
    )


class Peel4DCameraProperties(bpy.types.PropertyGroup):
    """`Camera.peel4d`: the picture format of a captured camera, which Blender keeps per scene."""

    view: StringProperty(name="View", description="Name of the view in the capture", options=set())
    train: BoolProperty(
        name="Training View",
        description="The reconstruction was trained on this view",
        default=False,
        options=set(),
    )
    width: IntProperty(name="Width", description="Pixels; 0 = not captured", min=0, options=set())
    height: IntProperty(name="Height", description="Pixels", min=0, options=set())
    pixel_aspect_x: FloatProperty(name="Pixel Aspect X", default=1.0, min=1.0, options=set())
    pixel_aspect_y: FloatProperty(name="Pixel Aspect Y", default=1.0, min=1.0, options=set())


class Peel4DSceneProperties(bpy.types.PropertyGroup):
    """`Scene.peel4d`: render settings."""

    layers: IntProperty(
        name="Layers",
        description="Nearest points composited in a pixel; 0 = as the clips were made",
        default=0,
        min=0,
        max=64,
        options=set(),
        update=viewports_changed,
    )
    samples: EnumProperty(
        name="Samples",
        description="Samples per pixel along each axis in final renders, and in the viewport when "
        "it is still and the CPU or CUDA draws it",
        items=(
            ("1", "1", "One sample, the points' rims as they are"),
            ("2", "2", "2 x 2 samples per pixel"),
            ("4", "4", "4 x 4 samples per pixel"),
        ),
        default=str(DEFAULT_SAMPLES),
        options=set(),
    )
    meshes: EnumProperty(
        name="Meshes",
        description="What the scene's own geometry does in pictures of the Peel4D engine",
        items=(
            ("SHADED", "Shaded", "Simply shaded, in one depth order with the points"),
            ("HOLDOUT", "Holdout", "Hides the points behind it and is transparent itself"),
            ("IGNORED", "Ignored", "Clips only"),
        ),
        default="SHADED",
        options=set(),
        update=viewports_changed,
    )
    backend: EnumProperty(
        name="Device",
        description="What computes the pictures",
        items=(
            ("AUTO", "Automatic", "An NVIDIA GPU where there is one, else the CPU"),
            ("CUDA", "CUDA", "NVIDIA GPU"),
            ("CPU", "CPU", "All cores"),
        ),
        default="AUTO",
        options=set(),
    )
    viewport_backend: EnumProperty(
        name="Viewport Device",
        description="What computes the pictures of the 3D viewport",
        items=(
            ("AUTO", "Automatic", "CUDA where there is an NVIDIA GPU, else the CPU"),
            ("CUDA", "CUDA", "NVIDIA GPU"),
            ("CPU", "CPU", "All cores"),
            ("GL", "Graphics", "Blender's own graphics device, of any vendor"),
        ),
        default="AUTO",
        options=set(),
        update=viewports_changed,
    )
    overlay: BoolProperty(
        name="Show In All Viewports",
        description="Draw clips in viewports of other engines and shading modes, too",
        default=True,
        options=set(),
        update=viewports_changed,
    )
    is_composite: BoolProperty(
        name="Renders Clips",
        description="This scene renders the clips of its background set for a composite",
        default=False,
        options={"HIDDEN"},
    )


CLASSES = (Peel4DClipProperties, Peel4DCameraProperties, Peel4DSceneProperties)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Object.peel4d = PointerProperty(type=Peel4DClipProperties, override=_OVERRIDE)
    bpy.types.Camera.peel4d = PointerProperty(type=Peel4DCameraProperties)
    bpy.types.Scene.peel4d = PointerProperty(type=Peel4DSceneProperties)


def unregister() -> None:
    del bpy.types.Scene.peel4d
    del bpy.types.Camera.peel4d
    del bpy.types.Object.peel4d
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
