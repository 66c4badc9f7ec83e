# SPDX-License-Identifier: GPL-3.0-or-later
"""What a reconstruction puts into the scene: its preview while it trains, then its clip."""

from __future__ import annotations

import contextlib
from pathlib import Path

import bpy

from ...engine.clip.reader import ClipReader
from ...engine.errors import PeelError
from ..import_clip import import_clip
from .request import uses_rig

PREVIEW_NAME = "Peel4D Preview"


class ResultInScene:
    """Called by the job's events, applied between two frames of Blender's own work.

    scene: name of the scene the job was started in; a pointer would not survive an undo.
    """

    def __init__(self, scene: str):
        self._scene = scene
        self._preview: Path | None = None
        self._clip: Path | None = None

    def preview(self, path: Path) -> None:
        self._preview = path

    def done(self, result: dict) -> None:
        self._clip = Path(str(result["clip"]))

    def apply(self) -> bool:
        """Show what has come; True when it has to wait because Blender renders."""
        if self._preview is None and self._clip is None:
            return False
        if bpy.app.is_job_running("RENDER"):
            return True
        preview, clip = self._preview, self._clip
        self._preview = self._clip = None
        scene = bpy.data.scenes.get(self._scene)
        if scene is None:
            return False
        # The file may be gone or unreadable by now; the job itself is not the worse for it.
        with contextlib.suppress(PeelError):
            if clip is not None:
                show_clip(scene, clip)
                _push_undo("Reconstruct 4D")
            elif preview is not None:
                show_preview(scene, preview)
        return False


def show_preview(scene: bpy.types.Scene, path: Path) -> bpy.types.Object:
    """The object of the preview `path`, made when it is not there. Raises PeelError."""
    shown = showing(scene, path)
    if shown:
        for clip in shown:
            _refresh(clip)
        return shown[0]
    clip = _add(scene, path, cameras=False)
    clip.name = clip.data.name = PREVIEW_NAME
    # One frame of the performance, whatever frame the scene is at.
    clip.peel4d.sequence_mode = "EXTEND"
    return clip


def show_clip(scene: bpy.types.Scene, path: Path) -> bpy.types.Object:
    """The object of the finished clip `path`, in the place of its preview. Raises PeelError."""
    previews = showing(scene, path.with_name("preview.p4d"))
    shown = showing(scene, path)
    if shown:
        clip = shown[0]
        for other in shown:
            _refresh(other)
    else:
        clip = _add(scene, path, cameras=True)
        if previews:  # moved or hung elsewhere while it trained
            clip.parent = previews[0].parent
            clip.matrix_parent_inverse = previews[0].matrix_parent_inverse
            clip.matrix_basis = previews[0].matrix_basis
    for preview in previews:
        mesh = preview.data
        bpy.data.objects.remove(preview)
        if mesh is not None and mesh.users == 0:
            bpy.data.meshes.remove(mesh)
    with contextlib.suppress(OSError):
        path.with_name("preview.p4d").unlink(missing_ok=True)
    return clip


def _add(scene: bpy.types.Scene, path: Path, *, cameras: bool) -> bpy.types.Object:
    """Import a clip; under the scene's rig when it comes from its capture."""
    rig = scene.peel4d_rig
    root = rig.root if uses_rig(scene) else None
    with ClipReader(path) as reader:
        first = reader.info.first_frame
    start = 1.0 if root is None else float(rig.frame_start + first - rig.first_label)
    clip = import_clip(
        scene,
        scene.collection,
        path,
        # The rig has cameras and a frame range already.
        cameras=cameras and root is None,
        set_frame_range=cameras and root is None,
        frame_start=start,
        relative_path=True,
    ).clip
    if root is not None:
        # What is its child is in the capture's own coordinates, as the points are.
        clip.parent = root
        clip.matrix_parent_inverse.identity()
        clip.matrix_basis.identity()
    return clip


def showing(scene: bpy.types.Scene, path: Path) -> list[bpy.types.Object]:
    """Objects of the scene that show this file."""
    return [
        thing
        for thing in scene.objects
        if thing.peel4d.is_clip and _same(bpy.path.abspath(thing.peel4d.filepath), path)
    ]


def _same(first: str, second: Path) -> bool:
    return bool(first) and Path(first).absolute() == Path(second).absolute()


def _refresh(clip: bpy.types.Object) -> None:
    """Have viewports look at the file again."""
    clip.update_tag()
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


def _push_undo(message: str) -> None:
    windows = bpy.context.window_manager.windows
    if bpy.app.background or not windows:
        return
    # Not while another operator, a transform say, is in between.
    with bpy.context.temp_override(window=windows[0]), contextlib.suppress(RuntimeError):
        bpy.ops.ed.undo_push(message=message)
