# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the renderer, of a clip and of a captured camera in the Properties editor."""

from __future__ import annotations

import bpy
import numpy as np

from ..engine.clip.clip import ClipInfo
from .cameras import Peel4DUseCapturedFormat
from .clip_file import clip_file
from .clip_object import Peel4DAddCropBox, Peel4DFindMissingClips, Peel4DRelocateClip
from .import_clip import Peel4DImportClip
from .pack_clip import Peel4DPackClip
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
        settings = context.scene.peel4d
        layout.prop(settings, "backend")
        layout.prop(settings, "viewport_backend", text="Viewport")
        layout.prop(settings, "layers")
        layout.prop(settings, "samples")
        layout.prop(settings, "meshes")
        layout.prop(settings, "overlay")
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


class _ClipPanel:
    """Everything about the clip of the active object, in two editors."""

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        clip_object = context.object
        clip = clip_object.peel4d
        info = self._draw_file(layout, clip_object)
        header, body = layout.panel("PEEL4D_clip_playback")
        header.label(text="Playback")
        if body is not None:
            playback = _plain(body)
            playback.enabled = not clip.override_frame
            playback.prop(clip, "frame_start")
            playback.prop(clip, "frame_offset")
            playback.prop(clip, "speed")
            playback.prop(clip, "sequence_mode")
            _plain(body).prop(clip, "override_frame")
            override = body.column()
            override.enabled = clip.override_frame
            override.prop(clip, "frame")
        header, body = layout.panel("PEEL4D_clip_look")
        header.label(text="Look")
        if body is not None:
            background = body.column()
            background.enabled = info is None or info.static_points > 0
            background.prop(clip, "show_background")
            animated = body.column()
            animated.prop(clip, "opacity")
            animated.prop(clip, "exposure")
            animated.prop(clip, "saturation")
            rest = _plain(body)
            rest.prop(clip, "point_density", slider=True)
            crop = rest.row(align=True)
            crop.prop(clip, "crop_object")
            if clip.crop_object is None:
                crop.operator(Peel4DAddCropBox.bl_idname, text="", icon="ADD")

    def _draw_file(
        self, layout: bpy.types.UILayout, clip_object: bpy.types.Object
    ) -> ClipInfo | None:
        """Returns the clip's head, None where the file cannot be shown."""
        state = clip_file(clip_object)
        row = _plain(layout).row(align=True)
        row.alert = bool(state.problem)
        row.prop(clip_object.peel4d, "filepath")
        if state.problem:
            column = layout.column(align=True)
            column.alert = True
            for index, line in enumerate(state.problem.split(". ")):
                column.label(text=line, icon="BLANK1" if index else "ERROR")
            layout.operator(Peel4DRelocateClip.bl_idname, icon="FILE_FOLDER")
            if state.missing and state.path:
                layout.operator(Peel4DFindMissingClips.bl_idname, icon="VIEWZOOM")
            return None
        column = layout.column(align=True)
        column.active = False
        for line in facts(state.info, state.nbytes):
            column.label(text=line)
        if state.info.codec == "baked":
            layout.operator(Peel4DPackClip.bl_idname, icon="PACKAGE")
        return state.info


def _plain(layout: bpy.types.UILayout) -> bpy.types.UILayout:
    """A column without the dots for keyframes."""
    column = layout.column()
    column.use_property_decorate = False
    return column


def facts(info: ClipInfo, nbytes: int) -> list[str]:
    """What the head of a clip says, for people."""
    low, high = min(info.points, default=0), max(info.points, default=0)
    points = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    seconds = info.frame_count / info.fps
    lines = [
        f"{info.frame_count:,} frames at {info.fps:g} fps ({seconds:.2f} s)",
        f"{points} points, {megabytes(nbytes)}",
        _extent(info.frame_bounds),
    ]
    if info.static_points:
        lines.append(f"Background: {info.static_points:,} points, {_extent(info.bounds)}")
    return lines


def _extent(bounds: np.ndarray) -> str:
    return "{:.2f} x {:.2f} x {:.2f} units".format(*(bounds[1] - bounds[0]))


def megabytes(nbytes: int) -> str:
    """12.3 MB; decimal units as file managers show them."""
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 50_000 else f"{nbytes / 1e3:.1f} kB"


class PEEL4D_OBJECT_PT_clip(_ClipPanel, bpy.types.Panel):
    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    bl_label = "Peel4D Clip"
    bl_context = "object"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.object is not None and context.object.peel4d.is_clip


class PEEL4D_VIEW3D_PT_clip(_ClipPanel, bpy.types.Panel):
    """The clip that the active object shows"""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Peel4D"
    bl_label = "Clip"
    bl_order = 30

    def draw(self, context: bpy.types.Context) -> None:
        if context.object is not None and context.object.peel4d.is_clip:
            super().draw(context)
            return
        self.layout.label(text="The active object is no clip")
        self.layout.operator(Peel4DImportClip.bl_idname, text="Import Clip", icon="IMPORT")


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
    PEEL4D_VIEW3D_PT_clip,
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
