# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender cameras as a capture: a rig that was corrected or built here is reconstructed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import bpy
import numpy as np

from ...engine.capture.capture import Capture, ImageFile, View
from ...engine.capture.detect import open_capture
from ...engine.capture.parsing import read_json
from ...engine.capture.rig_file import FILE_NAME, FORMAT, RigView, is_rig, rig_source, write_rig
from ...engine.errors import CaptureError, PeelError
from ..blend_paths import absolute
from ..preferences import user_folder
from .build import fill_views, is_edited, open_rig_capture, rig_size
from .camera_footage import files
from .poses import picture_format, poses, same_cameras, stated_view


def views_to_reconstruct(scene: bpy.types.Scene) -> tuple[list[str], list[str]]:
    """Names of the enabled training views and test views of the scene's rig."""
    used = [item for item in scene.peel4d_rig.views if item.enabled]
    return [v.name for v in used if not v.test], [v.name for v in used if v.test]


def path_to_reconstruct(scene: bpy.types.Scene) -> Path:
    """The capture that stands for the scene's rig as its cameras are now.

    The capture's own path, or where cameras were moved, changed or taken away since it was read a
    rig file that is written for it. Raises PeelError.
    """
    rig = scene.peel4d_rig
    path = Path(absolute(rig.capture_path, scene)) if rig.capture_path else None
    if path is None or edited_views(scene):
        return use_cameras(scene, rig_file_path(scene))
    if not path.exists():
        raise CaptureError(
            "the capture is missing", where=path, hint="Relocate it in the panel of the rig"
        )
    return path


def edited_views(scene: bpy.types.Scene) -> list[str]:
    """Names of views whose camera no longer says what the capture says."""
    rig = scene.peel4d_rig
    return [
        item.name
        for item in rig.views
        if item.enabled and (not _exists(item.camera) or is_edited(item, rig.root))
    ]


def rig_file_path(scene: bpy.types.Scene) -> Path:
    """Where a rig file is written unless the user says otherwise."""
    rig = scene.peel4d_rig
    if rig.capture_path:
        path = Path(absolute(rig.capture_path, scene))
        if path.name == FILE_NAME:
            return path
        folder = path if path.is_dir() else path.parent
        if os.access(folder, os.W_OK):
            return folder / FILE_NAME
        return user_folder() / "rigs" / folder.name / FILE_NAME
    if bpy.data.filepath:
        return Path(bpy.data.filepath).parent / FILE_NAME
    return user_folder() / "rigs" / FILE_NAME


def use_cameras(scene: bpy.types.Scene, path: Path) -> Path:
    """Write the scene's rig as its cameras are to `path` and make that the scene's capture.

    Views without a camera are left out. Raises PeelError; then nothing has changed.
    """
    rig = scene.peel4d_rig
    items = [item for item in rig.views if _exists(item.camera)]
    if not items:
        raise PeelError(
            "has no cameras",
            where=f"the rig of scene '{scene.name}'",
            hint="Select cameras with footage as their background and choose Rig from Cameras",
        )
    capture = open_rig_capture(scene) if rig.capture_path else None
    known = {view.name for view in capture.views} if capture else set()
    items = [item for item in items if capture is None or item.name in known]
    frames = _frames(scene, items, capture)
    stands = poses(scene, items, capture, frames)
    views = [
        _rig_view(scene, item, capture, frames, pose)
        for item, pose in zip(items, stands, strict=True)
    ]
    source = None
    if capture is not None:
        source, own = _source_of(capture)
        if source is None:
            views = [_with_files(view, own) for view in views]
    write_rig(
        path,
        views,
        source=source,
        size=rig_size(rig) if source is not None else None,
        fps=capture.fps if capture else scene.render.fps / scene.render.fps_base,
        up=capture.up if capture else _up(rig.root),
    )
    written = open_capture(path)
    kept = {item.name: (item.camera, item.enabled, item.test) for item in rig.views}
    rig.capture_path = str(path)
    rig.size = (0, 0)
    fill_views(rig, written, {name: camera for name, (camera, _, _) in kept.items()})
    for item in rig.views:
        _, item.enabled, item.test = kept[item.name]
    return path


def _exists(camera: bpy.types.Object | None) -> bool:
    """A deleted object lives on as long as something points to it, but in no scene."""
    return camera is not None and camera.type == "CAMERA" and bool(camera.users_scene)


def _frames(scene: bpy.types.Scene, items: list, capture: Capture | None) -> int:
    return len(capture.frames) if capture else max(scene.peel4d_rig.frame_count, 1)


def _rig_view(
    scene: bpy.types.Scene,
    item,
    capture: Capture | None,
    frames: int,
    pose: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> RigView:
    """A view as its camera stands. The capture's own numbers where those are the same."""
    rig = scene.peel4d_rig
    camera = item.camera
    stated = stated_view(capture, item)
    K, R, t = pose
    if stated is None:
        width, height, *_ = picture_format(scene, camera, None)
        view = View(item.name, width, height, train=not item.test)
        return RigView(
            view,
            *_constant(K, R, t),
            images=files(camera.data, 0, rig.frame_start, frames),
            masks=files(camera.data, 1, rig.frame_start, frames),
        )
    index = capture.view_index(item.name)
    own = [np.asarray(capture.K), np.asarray(capture.R), np.asarray(capture.t)]
    for slot, rank in enumerate((3, 3, 2)):
        has_frames = own[slot].ndim > rank
        own[slot] = own[slot][:, index] if has_frames else own[slot][index][None]
    if same_cameras(K, R, t, own):
        K, R, t = own
    return RigView(replace(stated, train=not item.test), *_constant(K, R, t))


def _constant(*arrays: np.ndarray) -> list[np.ndarray]:
    """(F, ...) -> (...) where all frames are the same."""
    return [a[0] if (a == a[:1]).all() else a for a in arrays]


def _source_of(capture: Capture) -> tuple[Path | None, Capture]:
    """The capture that a rig file has to name for the footage; None where files are listed."""
    if capture.format != FORMAT:
        return capture.path, capture
    file = capture.path if capture.path.is_file() else capture.path / FILE_NAME
    document = read_json(file)
    stated = rig_source(file, document) if is_rig(document) else None
    return (stated[0], capture) if stated else (None, capture)


def _with_files(view: RigView, capture: Capture) -> RigView:
    """The view with the files that a rig without a source states for it."""
    index = capture.view_index(view.view.name)

    def listed(files: dict[tuple[int, int], ImageFile]) -> Path | list[Path | None]:
        own = [files.get((frame, index)) for frame in range(len(capture.frames))]
        video = next((f.path for f in own if f is not None and f.index is not None), None)
        if video is not None:
            return video
        return [None if f is None else f.path for f in own] if any(own) else []

    return replace(view, images=listed(capture.images), masks=listed(capture.masks))


def _up(root: bpy.types.Object | None) -> np.ndarray:
    """Blender's Z in the coordinates of the rig, (3,) unit."""
    if root is None:
        return np.array([0.0, 0.0, 1.0])
    # The inverse of a rotation is its transpose: the third row, whatever the uniform scale.
    up = np.array(root.matrix_world.to_3x3().row[2])
    return up / np.linalg.norm(up)
