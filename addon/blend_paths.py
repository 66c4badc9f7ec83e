# SPDX-License-Identifier: GPL-3.0-or-later
"""Relative paths in our properties stay right: saving elsewhere, appending, copying and pasting.

Blender does this for its own properties, but not for those of add-ons.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import bpy
from bpy.app.handlers import persistent

#: What holds paths, and the names of the properties that do: of objects and of scenes.
_OF_OBJECTS = (("peel4d", "filepath"),)
_OF_SCENES = (
    ("peel4d_rig", "capture_path"),
    ("peel4d_job", "capture_path"),
    ("peel4d_job", "output"),
)


def absolute(path: str, owner: bpy.types.ID) -> str:
    """The absolute path of a property of `owner`, whose `//` is beside its own .blend file."""
    return os.path.normpath(bpy.path.abspath(path, library=owner.library)) if path else ""


def stored_path(path: str | Path, *, relative: bool = True) -> str:
    """The path as a property in this .blend file keeps it: relative where that is possible."""
    path = str(path)
    if not (relative and bpy.data.is_saved):
        return path
    try:
        return bpy.path.relpath(path)
    except ValueError:  # another drive on Windows
        return path


def _relative_paths(owner: bpy.types.ID) -> Iterator[tuple[bpy.types.PropertyGroup, str]]:
    """(group, name) of the properties of a local object or scene that hold relative paths."""
    if owner.library is not None or owner.override_library is not None:
        return
    for group, name in _OF_SCENES if isinstance(owner, bpy.types.Scene) else _OF_OBJECTS:
        properties = getattr(owner, group)
        if getattr(properties, name).startswith("//"):
            yield properties, name


def _owners() -> Iterator[bpy.types.ID]:
    yield from bpy.data.objects
    yield from bpy.data.scenes


@persistent
def _before_saving(blend: str, *_args: object) -> None:
    _rebase(bpy.data.filepath, blend)


@persistent
def _after_saving(blend: str, *_args: object) -> None:
    # A copy was saved: this session goes on in the old place.
    _rebase(blend, bpy.data.filepath)


def _rebase(old: str, new: str) -> None:
    """Relative paths beside the file `old` become relative to the file `new`."""
    if not old or not new or Path(old).parent == Path(new).parent:
        return
    for owner in _owners():
        for properties, name in _relative_paths(owner):
            _move(properties, name, Path(old).parent, Path(new).parent)


def _move(properties: bpy.types.PropertyGroup, name: str, old: Path, new: Path | None) -> None:
    """Make a path that is relative to the folder `old` relative to `new`; None: absolute."""
    path = os.path.normpath(bpy.path.abspath(getattr(properties, name), start=str(old)))
    if new is not None:
        with contextlib.suppress(ValueError):  # another drive on Windows
            path = bpy.path.relpath(path, start=str(new))
    setattr(properties, name, path)


def remember_folder(clip: bpy.types.PropertyGroup) -> None:
    """Note where `//` is now: a clip that is pasted comes from a .blend file among the temporary
    ones, which does not tell."""
    owner = clip.id_data
    if owner.library is None and owner.override_library is None:
        clip.blend_folder = str(Path(bpy.data.filepath).parent) if bpy.data.is_saved else ""


@persistent
def _remember_folders(*_args: object) -> None:
    for item in bpy.data.objects:
        if item.peel4d.is_clip:
            remember_folder(item.peel4d)


@persistent
def _after_appending(context: object, *_args: object) -> None:
    """context: bpy.types.BlendImportContext."""
    here = Path(bpy.data.filepath).parent if bpy.data.is_saved else None
    for item in context.import_items:
        if not isinstance(item.id, bpy.types.Object | bpy.types.Scene) or not item.source_library:
            continue
        beside = Path(bpy.path.abspath(item.source_library.filepath)).parent
        for properties, name in list(_relative_paths(item.id)):
            _move(properties, name, _folder_of(properties, name, beside), here)


def _folder_of(properties: bpy.types.PropertyGroup, name: str, beside: Path) -> Path:
    """Where the `//` of an appended path is: beside its .blend file, or where it was copied."""
    copied = getattr(properties, "blend_folder", "")
    path = getattr(properties, name)
    if copied and not Path(bpy.path.abspath(path, start=str(beside))).exists():
        return Path(copied)
    return beside


def _handlers() -> list[tuple[list, object]]:
    handlers = bpy.app.handlers
    pairs = [
        (handlers.save_pre, _before_saving),
        (handlers.save_post, _after_saving),
        (handlers.save_post, _remember_folders),
        (handlers.load_post, _remember_folders),
    ]
    if hasattr(handlers, "blend_import_post"):  # since 4.3
        pairs.append((handlers.blend_import_post, _after_appending))
    return pairs


def register() -> None:
    for handlers, handler in _handlers():
        handlers.append(handler)


def unregister() -> None:
    for handlers, handler in _handlers():
        if handler in handlers:
            handlers.remove(handler)
