# SPDX-License-Identifier: GPL-3.0-or-later
"""The file behind a clip object: where it is, whether it is there, what its head says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import bpy

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
