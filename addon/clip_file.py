# SPDX-License-Identifier: GPL-3.0-or-later
"""The file behind a clip object: where it is, whether it is there, what its head says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import bpy
from bpy.app.handlers import persistent

from ..engine.clip.clip import ClipInfo
from ..engine.clip.reader import ClipReader
from ..engine.errors import PeelError


@dataclass(frozen=True, eq=False)
class ClipFile:
    """path: absolute, "" where none is chosen. problem: why it cannot be shown, "" if it can.
    missing: there is no such file. info, nbytes: its head and its size, where there is none: None
    and 0.
    """

    path: str
    problem: str = ""
    missing: bool = False
    info: ClipInfo | None = None
    nbytes: int = 0


def clip_file(clip_object: bpy.types.Object) -> ClipFile:
    """The state of the file that an object shows, cheap enough for every redraw of a panel."""
    path = clip_path(clip_object)
    if not path:
        return ClipFile("", "No file is chosen", missing=True)
    try:
        status = Path(path).stat()
    except OSError as error:
        why = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror})"
        return ClipFile(path, f"The file is missing{why}", missing=True)
    info, problem = _head(path, status.st_mtime_ns, status.st_size)
    return ClipFile(path, problem, False, info, status.st_size)


def clip_path(clip_object: bpy.types.Object) -> str:
    """The absolute path of the clip of an original object; "" where none is chosen.

    `//` is beside the .blend file that the path was written in: a linked object's library, and for
    a library override that of the object it overrides unless the path itself is overridden.
    """
    path = clip_object.peel4d.filepath
    if not path:
        return ""
    library = clip_object.library
    override = clip_object.override_library
    if library is None and override is not None and override.reference is not None:
        overridden = {item.rna_path for item in override.properties}
        if "peel4d.filepath" not in overridden:
            library = override.reference.library
    return os.path.normpath(bpy.path.abspath(path, library=library))


def stored_path(path: str | Path, *, relative: bool = True) -> str:
    """The path as an object of this .blend file keeps it: relative where that is possible."""
    path = str(path)
    if not (relative and bpy.data.is_saved):
        return path
    try:
        return bpy.path.relpath(path)
    except ValueError:  # another drive on Windows
        return path


def clip_objects() -> Iterator[bpy.types.Object]:
    """All clip objects of the .blend file."""
    return (item for item in bpy.data.objects if item.peel4d.is_clip)


def is_editable(clip_object: bpy.types.Object) -> bool:
    """Whether its path can be changed and stays changed."""
    return clip_object.library is None


@lru_cache(maxsize=64)
def _head(path: str, _modified_ns: int, _nbytes: int) -> tuple[ClipInfo | None, str]:
    """The head of one state of a file, or why there is none."""
    try:
        with ClipReader(path) as reader:
            return reader.info, ""
    except PeelError as error:
        return None, str(error)


# Blender keeps its own relative paths right when a file is saved elsewhere or appended from, but
# not those in properties of add-ons.


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
    for clip_object in clip_objects():
        path = clip_object.peel4d.filepath
        if is_editable(clip_object) and clip_object.override_library is None:
            if not path.startswith("//"):
                continue
            absolute = bpy.path.abspath(path, start=str(Path(old).parent))
            try:
                rebased = bpy.path.relpath(absolute, start=str(Path(new).parent))
            except ValueError:  # another drive on Windows
                rebased = absolute
            clip_object.peel4d.filepath = rebased


@persistent
def _after_appending(context: object, *_args: object) -> None:
    """context: bpy.types.BlendImportContext."""
    for item in context.import_items:
        appended = item.id
        if not isinstance(appended, bpy.types.Object) or not appended.peel4d.is_clip:
            continue
        path = appended.peel4d.filepath
        if appended.library is None and path.startswith("//") and item.source_library:
            blend = bpy.path.abspath(item.source_library.filepath)
            absolute = os.path.normpath(bpy.path.abspath(path, start=str(Path(blend).parent)))
            appended.peel4d.filepath = stored_path(absolute)


def _handlers() -> list[tuple[list, object]]:
    handlers = bpy.app.handlers
    pairs = [(handlers.save_pre, _before_saving), (handlers.save_post, _after_saving)]
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
    _head.cache_clear()
