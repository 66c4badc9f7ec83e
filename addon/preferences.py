# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Python trains, where its environment lies, and how much memory may be used."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import bpy
from bpy.props import FloatProperty, StringProperty

#: The name of the add-on: `peel4d`, or `bl_ext.<repository>.peel4d` as an extension.
ROOT_PACKAGE = __package__.rpartition(".")[0]


@dataclass(frozen=True)
class Preferences:
    """What the user has set. interpreter, environment_folder: absolute, None where not set.
    memory_limit: bytes that a reconstruction may hold, None without a limit."""

    interpreter: Path | None = None
    environment_folder: Path | None = None
    memory_limit: int | None = None


class Peel4DPreferences(bpy.types.AddonPreferences):
    bl_idname = ROOT_PACKAGE

    interpreter: StringProperty(
        name="Interpreter",
        description="A Python that has torch, for reconstructing; needed only where Blender's own "
        "Python has none and no environment is created below",
        subtype="FILE_PATH",
    )
    environment_folder: StringProperty(
        name="Environment",
        description="Folder of the environment that the button creates, about 6 GB with CUDA; "
        "empty: in the user's folder of this add-on",
        subtype="DIR_PATH",
    )
    memory_limit: FloatProperty(
        name="Memory Limit",
        description="Gigabytes a reconstruction may hold before it saves and ends; 0: no limit",
        default=0.0,
        min=0.0,
        soft_max=256.0,
        precision=1,
    )

    def draw(self, _context: bpy.types.Context) -> None:
        from .job.panels import draw_preferences

        draw_preferences(self, self.layout)


def preferences() -> Preferences:
    """The preferences; defaults where Peel4D is registered without being an enabled add-on."""
    addon = bpy.context.preferences.addons.get(ROOT_PACKAGE)
    stored = addon.preferences if addon is not None else None
    if stored is None:
        return Preferences()
    gigabytes = stored.memory_limit
    return Preferences(
        _path(stored.interpreter),
        _path(stored.environment_folder),
        int(gigabytes * 2**30) if gigabytes > 0 else None,
    )


def user_folder() -> Path:
    """Where Peel4D may keep files of its own: the extension's user folder, outside of an extension
    the platform's place for the data of applications. Made when something is written."""
    if ROOT_PACKAGE.startswith("bl_ext."):
        return Path(bpy.utils.extension_path_user(ROOT_PACKAGE, create=True))
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "peel4d"


def environment_folder() -> Path:
    """Folder of the environment that the button creates."""
    return preferences().environment_folder or user_folder() / "environment"


def online_refusal() -> str | None:
    """Why nothing may be downloaded and what to do about it; None where it may."""
    if bpy.app.online_access:
        return None
    if bpy.app.online_access_override:
        return "Blender was started with --offline-mode. Start it without to go online"
    return "Online access is off. Allow it in Preferences > System > Network"


def _path(text: str) -> Path | None:
    return Path(bpy.path.abspath(text)) if text.strip() else None


def register() -> None:
    bpy.utils.register_class(Peel4DPreferences)


def unregister() -> None:
    bpy.utils.unregister_class(Peel4DPreferences)
