# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the renderer, of a clip and of a captured camera in the Properties editor."""

from __future__ import annotations

import bpy

from .cameras import Peel4DUseCapturedFormat
from .render.engine import ENGINE_ID

#: Built-in panels that list BLENDER_RENDER but show what Peel4D does not have; beginnings of names.
WITHOUT_MEANING = (
    "EEVEE_",
    "MATERIAL_PT_freestyle",
    "RENDER_PT_freestyle",
    "RENDER_PT_simplify",
    "RENDER_PT_stereoscopy",
    "VIEWLAYER_PT_freestyle",
)


class _PropertiesPanel:
    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"

    def _layout(self) -> bpy.types.UILayout:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        return layout


class PEEL4D_RENDER_PT_settings(_PropertiesPanel, bpy.types.Panel):
    bl_label = "Peel4D"
    bl_context = "render"
    COMPAT_ENGINES = {ENGINE_ID}  # noqa: RUF012 (Blender's own attribute)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.engine in cls.COMPAT_ENGINES

    def draw(self, context: bpy.types.Context) -> None:
        layout = self._layout()
        render = context.scene.render
        layout.prop(context.scene.peel4d, "layers")
        layout.prop(render, "film_transparent", text="Transparent Film")
        layout.prop(render, "threads_mode")
        column = layout.column()
        column.enabled = render.threads_mode == "FIXED"
        column.prop(render, "threads")


class PEEL4D_VIEWLAYER_PT_passes(_PropertiesPanel, bpy.types.Panel):
    bl_label = "Passes"
    bl_context = "view_layer"
    COMPAT_ENGINES = {ENGINE_ID}  # noqa: RUF012 (Blender's own attribute)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.engine in cls.COMPAT_ENGINES

    def draw(self, context: bpy.types.Context) -> None:
        self._layout().prop(context.view_layer, "use_pass_z", text="Depth")


class PEEL4D_OBJECT_PT_clip(_PropertiesPanel, bpy.types.Panel):
    bl_label = "Peel4D Clip"
    bl_context = "object"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.object is not None and context.object.peel4d.is_clip

    def draw(self, context: bpy.types.Context) -> None:
        layout = self._layout()
        clip = context.object.peel4d
        layout.prop(clip, "filepath")
        animated = layout.column()
        animated.use_property_decorate = True
        animated.prop(clip, "opacity")
        playback = layout.column()
        playback.enabled = not clip.override_frame
        playback.prop(clip, "frame_start")
        playback.prop(clip, "frame_offset")
        playback.prop(clip, "speed")
        playback.prop(clip, "sequence_mode")
        layout.prop(clip, "override_frame")
        override = layout.column()
        override.enabled = clip.override_frame
        override.use_property_decorate = True
        override.prop(clip, "frame")


class PEEL4D_CAMERA_PT_captured(_PropertiesPanel, bpy.types.Panel):
    bl_label = "Peel4D View"
    bl_context = "data"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.camera is not None and context.camera.peel4d.width > 0

    def draw(self, context: bpy.types.Context) -> None:
        captured = context.camera.peel4d
        kind = "training" if captured.train else "test"
        self.layout.label(
            text=f"{captured.view}: {captured.width} x {captured.height}, {kind} view"
        )
        self.layout.operator(Peel4DUseCapturedFormat.bl_idname)


CLASSES = (
    PEEL4D_RENDER_PT_settings,
    PEEL4D_VIEWLAYER_PT_passes,
    PEEL4D_OBJECT_PT_clip,
    PEEL4D_CAMERA_PT_captured,
)


def _shared_panels() -> list[type]:
    """Blender's own panels that every engine may use."""
    return [
        panel
        for panel in bpy.types.Panel.__subclasses__()
        if "BLENDER_RENDER" in getattr(panel, "COMPAT_ENGINES", ())
        and not panel.__name__.startswith(WITHOUT_MEANING)
    ]


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    for panel in _shared_panels():
        panel.COMPAT_ENGINES.add(ENGINE_ID)


def unregister() -> None:
    for panel in _shared_panels():
        panel.COMPAT_ENGINES.discard(ENGINE_ID)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
