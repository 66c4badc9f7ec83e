# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be done with a clip object: choose its file again, find lost files, crop it."""

from __future__ import annotations

import os
from pathlib import Path

import bpy
from bpy.props import BoolProperty, StringProperty
from bpy_extras.io_utils import ImportHelper

from ..engine.clip.reader import ClipReader
from ..engine.errors import PeelError
from .blend_paths import stored_path
from .clip_file import clip_file, clip_objects, clip_path, is_editable
from .composite.operators import Peel4DComposite, Peel4DRemoveComposite
from .import_clip import Peel4DImportClip, fit_box
from .pack_clip import Peel4DPackClip


def _active_clip(context: bpy.types.Context) -> bpy.types.Object | None:
    active = context.object
    return active if active is not None and active.peel4d.is_clip else None


class Peel4DRelocateClip(bpy.types.Operator, ImportHelper):
    """Choose the file of this clip again, for all objects that show it"""

    bl_idname = "object.peel4d_relocate_clip"
    bl_label = "Relocate Clip"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    filename_ext = ".p4d"
    filter_glob: StringProperty(default="*.p4d", options={"HIDDEN"})
    all_objects: BoolProperty(
        name="All Objects",
        description="Relocate every object that shows the same file",
        default=True,
    )
    relative_path: BoolProperty(
        name="Relative Path",
        description="Store the path relative to the .blend file",
        default=True,
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        clip = _active_clip(context)
        if clip is None:
            cls.poll_message_set("The active object shows no Peel4D clip")
            return False
        if not is_editable(clip):
            cls.poll_message_set("The object is linked from another file")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        path = Path(bpy.path.abspath(self.filepath)).absolute()
        try:
            with ClipReader(path) as reader:
                bounds = reader.info.frame_bounds
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        active = _active_clip(context)
        old = clip_path(active)
        for clip in list(clip_objects()):
            same = clip == active or (self.all_objects and old and clip_path(clip) == old)
            if same and is_editable(clip):
                clip.peel4d.filepath = stored_path(path, relative=self.relative_path)
                fit_box(clip, bounds)
        return {"FINISHED"}


class Peel4DFindMissingClips(bpy.types.Operator):
    """Search a folder, and the folders in it, for the clips whose files are missing"""

    bl_idname = "file.peel4d_find_missing_clips"
    bl_label = "Find Missing Clips"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    directory: StringProperty(
        name="Folder", description="Where to search", subtype="DIR_PATH", options={"SKIP_SAVE"}
    )
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    filter_glob: StringProperty(default="*.p4d", options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        missing = [clip for clip in clip_objects() if is_editable(clip) and clip_file(clip).missing]
        missing = [clip for clip in missing if clip.peel4d.filepath]
        if not missing:
            self.report({"INFO"}, "No clip is missing")
            return {"CANCELLED"}
        folder = bpy.path.abspath(self.directory)
        if not Path(folder).is_dir():
            self.report({"ERROR"}, f"{folder}: there is no such folder")
            return {"CANCELLED"}
        found = find_files(folder, {file_name(clip.peel4d.filepath) for clip in missing})
        count = 0
        for clip in missing:
            path = found.get(file_name(clip.peel4d.filepath))
            if path is not None:
                clip.peel4d.filepath = stored_path(path)
                count += 1
        left = sorted({file_name(c.peel4d.filepath) for c in missing if clip_file(c).missing})
        if left:
            self.report({"WARNING"}, f"{count} found, still missing: {', '.join(left)}")
        else:
            self.report({"INFO"}, f"{count} found")
        return {"FINISHED"} if count else {"CANCELLED"}


def file_name(path: str) -> str:
    """The last part of a path, whichever system has written it."""
    return path.replace("\\", "/").rpartition("/")[2]


def find_files(folder: str, names: set[str]) -> dict[str, str]:
    """Absolute paths of the files of these names in and below a folder, the nearest of each."""
    found: dict[str, str] = {}
    level = [folder]
    while level and len(found) < len(names):
        below = []
        for place in level:
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError:  # not ours to read
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                elif entry.name in names:
                    found.setdefault(entry.name, str(Path(entry.path).absolute()))
        level = below
    return found


class Peel4DAddCropBox(bpy.types.Operator):
    """Add a box around this clip; only the points inside it are shown. Move, scale and animate it
    like any object"""

    bl_idname = "object.peel4d_add_crop_box"
    bl_label = "Add Crop Box"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        clip = _active_clip(context)
        return clip is not None and is_editable(clip)

    def execute(self, context: bpy.types.Context) -> set[str]:
        clip = _active_clip(context)
        info = clip_file(clip).info
        if info is None:
            self.report({"ERROR"}, f"{clip.name}: {clip_file(clip).problem}")
            return {"CANCELLED"}
        low, high = info.bounds if clip.peel4d.show_background else info.frame_bounds
        box = bpy.data.objects.new(f"{clip.name} crop", None)
        box.empty_display_type = "CUBE"
        box.empty_display_size = 1.0
        box.parent = clip
        box.location = (low + high) / 2
        # A little more than the points, so that rounding cuts none off.
        box.scale = [max(float(extent) * 0.501, 1e-3) for extent in high - low]
        (clip.users_collection or (context.collection,))[0].objects.link(box)
        clip.peel4d.crop_object = box
        for selected in context.selected_objects:
            selected.select_set(False)
        if box.name in context.view_layer.objects:
            box.select_set(True)
            context.view_layer.objects.active = box
        return {"FINISHED"}


class PEEL4D_MT_object(bpy.types.Menu):
    bl_label = "Peel4D Clip"

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.operator(Peel4DRelocateClip.bl_idname, icon="FILE_FOLDER")
        layout.operator(Peel4DFindMissingClips.bl_idname, icon="VIEWZOOM")
        layout.separator()
        layout.operator(Peel4DAddCropBox.bl_idname, icon="SELECT_INTERSECT")
        layout.operator(Peel4DPackClip.bl_idname, icon="PACKAGE")
        layout.separator()
        layout.operator(Peel4DComposite.bl_idname, icon="NODE_COMPOSITING")
        layout.operator(Peel4DRemoveComposite.bl_idname, icon="X")


def _add_entry(self, _context: bpy.types.Context) -> None:
    self.layout.operator(
        Peel4DImportClip.bl_idname, text="Peel4D Clip (.p4d)", icon="OUTLINER_OB_POINTCLOUD"
    )


def _object_entry(self, _context: bpy.types.Context) -> None:
    self.layout.menu("PEEL4D_MT_object")


CLASSES = (Peel4DRelocateClip, Peel4DFindMissingClips, Peel4DAddCropBox, PEEL4D_MT_object)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.VIEW3D_MT_add.append(_add_entry)
    bpy.types.VIEW3D_MT_object.append(_object_entry)


def unregister() -> None:
    bpy.types.VIEW3D_MT_object.remove(_object_entry)
    bpy.types.VIEW3D_MT_add.remove(_add_entry)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
