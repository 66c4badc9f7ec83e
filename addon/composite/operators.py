# SPDX-License-Identifier: GPL-3.0-or-later
"""Composite With Cycles/EEVEE: the operators and their panel."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty

from ...engine.errors import PeelError
from ..render.meshes import rendered_layer
from .nodes import has_nodes, is_whole
from .scene import clip_scene_of, composite, remove_composite
from .soft_edges import Softness, softness_of

#: Where the scene of the clips keeps what its composite cannot show exactly.
_WARNINGS = "soft edges"
#: So many names are shown of what a holdout cannot follow.
_NAMES = 3


class Peel4DComposite(bpy.types.Operator):
    """Render the clips with Peel4D and lay them over this scene's picture from Cycles or EEVEE.
    Objects in front of a clip hide it"""

    bl_idname = "scene.peel4d_composite"
    bl_label = "Composite With Cycles/EEVEE"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    engine: EnumProperty(
        name="Engine",
        description="What renders everything but the clips",
        items=(
            ("KEEP", "As It Is", "The scene's engine; Cycles where that is Peel4D"),
            ("CYCLES", "Cycles", ""),
            ("EEVEE", "EEVEE", ""),
        ),
        default="KEEP",
    )
    samples: EnumProperty(
        name="Samples",
        description="Samples of the clips' picture per pixel along each axis; more than one "
        "smooths the edges of objects in front",
        items=(("1", "1", ""), ("2", "2", ""), ("4", "4", "")),
        default="2",
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.scene.peel4d.is_composite:
            cls.poll_message_set("This scene renders the clips of a composite itself")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        try:
            clips = composite(scene, engine=self.engine, samples=self.samples)
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        layer = rendered_layer(scene)
        if not any(item.peel4d.is_clip for item in scene.objects):
            self.report({"WARNING"}, "There is no clip in this scene yet")
        elif not any(item.peel4d.is_clip for item in layer.objects):
            self.report(
                {"WARNING"},
                f"No clip is in the view layer '{layer.name}', whose clips are composited",
            )
        # Kept for the panel: in a scene of thousands of objects this takes too long for drawing.
        lines = warnings(softness_of(scene))
        clips[_WARNINGS] = "\n".join(lines)
        for line in lines:
            self.report({"WARNING"}, line)
        self.report({"INFO"}, f"The scene '{clips.name}' renders the clips")
        return {"FINISHED"}


class Peel4DRemoveComposite(bpy.types.Operator):
    """Remove the compositor nodes and the scene that Composite With Cycles/EEVEE has made"""

    bl_idname = "scene.peel4d_remove_composite"
    bl_label = "Remove Composite"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return clip_scene_of(context.scene) is not None or has_nodes(context.scene)

    def execute(self, context: bpy.types.Context) -> set[str]:
        remove_composite(context.scene)
        return {"FINISHED"}


class PEEL4D_VIEW3D_PT_composite(bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Peel4D"
    bl_label = "Composite"
    bl_order = 50
    bl_options = {"DEFAULT_CLOSED"}  # noqa: RUF012 (Blender's own attribute)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        scene = context.scene
        clips = clip_scene_of(scene)
        if clips is None and not has_nodes(scene):
            layout.operator(Peel4DComposite.bl_idname, icon="NODE_COMPOSITING")
            return
        if is_whole(scene, clips):
            layout.label(text=f"Clips: scene '{clips.name}'", icon="SCENE_DATA")
            layout.prop(clips.peel4d, "samples")
            layout.prop(clips.peel4d, "layers")
            layout.prop(clips.peel4d, "backend")
        else:  # a node or the scene was deleted, or this scene is a copy
            layout.label(text="Incomplete, or another scene's clips", icon="ERROR")
            layout.operator(Peel4DComposite.bl_idname, text="Repair", icon="FILE_REFRESH")
        layout.operator(Peel4DRemoveComposite.bl_idname, icon="X")
        if clips is not None and _WARNINGS in clips:
            self._draw_warnings(clips[_WARNINGS].splitlines())

    def _draw_warnings(self, lines: list[str]) -> None:
        box = self.layout.box()
        row = box.row()
        row.label(text="Not exact:" if lines else "Nothing soft was found", icon="INFO")
        row.operator(Peel4DComposite.bl_idname, text="", icon="FILE_REFRESH")
        for line in lines:
            what, names = line.split(": ", 1)
            column = box.column(align=True)
            column.label(text=what)
            column.label(text=names, icon="BLANK1")


def warnings(softness: Softness) -> list[str]:
    """What the composite of a scene cannot show exactly, a line each."""
    lines = []
    if softness.opaque:
        lines.append(f"Hide clips as if opaque: {_list(softness.opaque)}")
    if softness.clear:
        lines.append(f"Never hide clips, being clear: {_list(softness.clear)}")
    if softness.hair:
        lines.append(f"Hair and points never hide clips: {_list(softness.hair)}")
    if softness.blurred:
        lines.append(f"Clips and the holes in them stay sharp: {_list(softness.blurred)}")
    return lines


def _list(names: tuple[str, ...]) -> str:
    text = ", ".join(names[:_NAMES])
    return text if len(names) <= _NAMES else f"{text} and {len(names) - _NAMES} more"


CLASSES = (Peel4DComposite, Peel4DRemoveComposite, PEEL4D_VIEW3D_PT_composite)
