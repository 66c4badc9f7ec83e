# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender cameras as a capture: a rig that was corrected or built here is reconstructed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import bpy
import numpy as np

from ...engine.capture.capture import Capture, ImageFile, View
from ...engine.capture.detect import open_capture
from ...engine.capture.parsing import read_json
from ...engine.capture.rig_file import FILE_NAME, FORMAT, RigView, is_rig, rig_source, write_rig
from ...engine.errors import CaptureError, PeelError
from ..cameras import intrinsics_of_lens
from ..preferences import user_folder
from ..render.view import pose_of
from .build import fill_views, is_edited, open_rig_capture, rig_size, set_findings

#: A camera that differs by less is where the capture says; Blender's numbers are single precision.
_SAME = 2e-6


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
    path = Path(bpy.path.abspath(rig.capture_path)) if rig.capture_path else None
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
        path = Path(bpy.path.abspath(rig.capture_path))
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
    poses = _poses(scene, items, capture, frames)
    views = [
        _rig_view(scene, item, capture, frames, pose)
        for item, pose in zip(items, poses, strict=True)
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


def rig_from_cameras(scene: bpy.types.Scene, cameras: Iterable[bpy.types.Object]) -> None:
    """Make cameras the scene's rig, in place of what it had; their backgrounds are the footage.

    Raises PeelError where there are fewer than two, or none has a picture.
    """
    cameras = sorted((c for c in cameras if c.type == "CAMERA"), key=lambda c: c.name)
    if len(cameras) < 2:
        raise PeelError(
            f"{len(cameras)} camera(s) selected, a rig needs at least two",
            hint="Select the cameras of the rig, each with its footage as background image",
        )
    if not any(_background(c.data, 0) for c in cameras):
        raise PeelError(
            "none of the cameras has footage",
            hint="Give each camera its image sequence or movie as background image",
        )
    rig = scene.peel4d_rig
    parents = {camera.parent for camera in cameras}
    rig.root = parents.pop() if len(parents) == 1 else None
    rig.capture_path, rig.size, rig.format = "", (0, 0), "Blender cameras"
    rig.views.clear()
    rig.findings.clear()
    rig.active_view = 0
    rig.fps = scene.render.fps / scene.render.fps_base
    rig.frame_start = min(_starts(cameras), default=scene.frame_start)
    for camera in cameras:
        item = rig.views.add()
        item.name = _view_name(camera)
        item.camera = camera
        item.test = bool(camera.data.peel4d.width) and not camera.data.peel4d.train
        item.frames = _duration(camera.data, 0)
        item.masks = _duration(camera.data, 1)
    rig.frame_count = max(item.frames for item in rig.views)
    set_findings(rig, [])


def _view_name(camera: bpy.types.Object) -> str:
    return (camera.data.peel4d.view or camera.name).replace("/", "_").replace("\\", "_")


def _exists(camera: bpy.types.Object | None) -> bool:
    """A deleted object lives on as long as something points to it, but in no scene."""
    return camera is not None and camera.type == "CAMERA" and bool(camera.users_scene)


def _frames(scene: bpy.types.Scene, items: list, capture: Capture | None) -> int:
    return len(capture.frames) if capture else max(scene.peel4d_rig.frame_count, 1)


def _poses(
    scene: bpy.types.Scene, items: list, capture: Capture | None, frames: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """K (N, 3, 3), R (N, 3, 3), t (N, 3) of each view; N is `frames` for cameras that may move."""
    rig = scene.peel4d_rig
    formats = [_format(scene, item.camera, _stated(capture, item)) for item in items]
    moving = [_moves(item.camera) for item in items]
    found: list[list] = [[] for _ in items]

    def sample(which: bool) -> None:
        depsgraph = bpy.context.evaluated_depsgraph_get()
        depsgraph.update()
        for index, item in enumerate(items):
            if moving[index] is which:
                found[index].append(_at(depsgraph, item.camera, rig.root, formats[index]))

    sample(False)
    if any(moving):
        before = scene.frame_current, scene.frame_subframe
        try:
            for frame in range(rig.frame_start, rig.frame_start + frames):
                scene.frame_set(frame)
                sample(True)
        finally:
            scene.frame_set(before[0], subframe=before[1])
    return [tuple(np.stack(values) for values in zip(*rows, strict=True)) for rows in found]


def _stated(capture: Capture | None, item) -> View | None:
    return capture.views[capture.view_index(item.name)] if capture else None


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
    stated = _stated(capture, item)
    K, R, t = pose
    if stated is None:
        width, height, *_ = _format(scene, camera, None)
        view = View(item.name, width, height, train=not item.test)
        return RigView(
            view,
            *_constant(K, R, t),
            images=_files(camera.data, 0, rig.frame_start, frames),
            masks=_files(camera.data, 1, rig.frame_start, frames),
        )
    index = capture.view_index(item.name)
    own = [np.asarray(capture.K), np.asarray(capture.R), np.asarray(capture.t)]
    for slot, rank in enumerate((3, 3, 2)):
        has_frames = own[slot].ndim > rank
        own[slot] = own[slot][:, index] if has_frames else own[slot][index][None]
    if _same(K, R, t, own):
        K, R, t = own
    return RigView(replace(stated, train=not item.test), *_constant(K, R, t))


def _same(K: np.ndarray, R: np.ndarray, t: np.ndarray, own: list[np.ndarray]) -> bool:
    """Whether cameras are the capture's but for single precision and what Blender cannot hold."""
    if any(len(a) not in (1, len(b)) and len(b) != 1 for a, b in zip((K, R, t), own, strict=True)):
        return False
    stated_K = own[0].copy()
    stated_K[:, 0, 1] = 0.0  # no skew in Blender
    left, _, right = np.linalg.svd(own[1])
    rotation = left @ right
    stated_centre = -np.einsum("nji,nj->ni", rotation, own[2])
    centre = -np.einsum("nji,nj->ni", R, t)
    size = max(1e-12, float(np.abs(stated_centre).max()))
    pixels = float(np.abs(stated_K).max())
    return bool(
        np.abs(K - stated_K).max() <= _SAME * pixels
        and np.abs(R - rotation).max() <= _SAME
        and np.abs(centre - stated_centre).max() <= _SAME * size
    )


def _constant(*arrays: np.ndarray) -> list[np.ndarray]:
    """(F, ...) -> (...) where all frames are the same."""
    return [a[0] if (a == a[:1]).all() else a for a in arrays]


def _format(
    scene: bpy.types.Scene, camera: bpy.types.Object, stated: View | None
) -> tuple[int, int, float, float]:
    """Width, height and pixel aspect (x, y) of a camera's pictures."""
    captured = camera.data.peel4d
    if captured.width and captured.height:
        aspects = captured.pixel_aspect_x, captured.pixel_aspect_y
        if stated is None or (stated.width, stated.height) == (captured.width, captured.height):
            return captured.width, captured.height, *aspects
    if stated is not None:
        return stated.width, stated.height, 1.0, 1.0
    render = scene.render
    aspects = render.pixel_aspect_x, render.pixel_aspect_y
    background = _background(camera.data, 0)
    if background is not None and all(background.image.size):
        return *background.image.size, *aspects
    return render.resolution_x, render.resolution_y, *aspects


def _moves(data: bpy.types.Object) -> bool:
    """Whether anything could move this object or change its lens: animation, drivers, parents."""
    while data is not None:
        animated = [data, data.data] if data.data is not None else [data]
        if data.constraints or any(d.animation_data is not None for d in animated):
            return True
        data = data.parent
    return False


def _at(
    depsgraph: bpy.types.Depsgraph,
    camera: bpy.types.Object,
    root: bpy.types.Object | None,
    picture: tuple[int, int, float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K, R, t of a camera now, in the coordinates of `root`. picture: see `_format`."""
    evaluated = camera.evaluated_get(depsgraph)
    K = intrinsics_of_lens(evaluated.data, *picture)
    if root is not None and camera.parent == root and not camera.constraints:
        # Not through the world: it would cost digits, and the root's scale means nothing here.
        matrix = np.array(camera.matrix_parent_inverse, dtype=np.float64) @ np.array(
            evaluated.matrix_basis, dtype=np.float64
        )
    else:
        matrix = np.array(evaluated.matrix_world, dtype=np.float64)
        if root is not None:
            world = np.array(root.evaluated_get(depsgraph).matrix_world, dtype=np.float64)
            matrix = np.linalg.inv(world) @ matrix
    return K, *pose_of(matrix, camera.name)


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


def _background(data: bpy.types.Camera, slot: int) -> bpy.types.CameraBackgroundImage | None:
    """The background with the footage (0) or with the masks (1), if it shows an image file."""
    if slot >= len(data.background_images):
        return None
    background = data.background_images[slot]
    has_image = background.source == "IMAGE" and background.image is not None
    return background if has_image and background.image.filepath else None


def _starts(cameras: Iterable[bpy.types.Object]) -> list[int]:
    backgrounds = [_background(camera.data, 0) for camera in cameras]
    return [b.image_user.frame_start for b in backgrounds if b and b.image.source != "FILE"]


def _duration(data: bpy.types.Camera, slot: int) -> int:
    background = _background(data, slot)
    if background is None:
        return 0
    return 1 if background.image.source == "FILE" else background.image_user.frame_duration


def _files(
    data: bpy.types.Camera, slot: int, frame_start: int, frames: int
) -> Path | list[Path | None]:
    """One file per frame as the camera's background shows them; a movie as it is. [] without."""
    background = _background(data, slot)
    if background is None:
        return []
    path = Path(bpy.path.abspath(background.image.filepath))
    user = background.image_user
    if background.image.source == "MOVIE":
        if user.frame_start != frame_start or user.frame_offset:
            raise PeelError(
                "the movie does not start with the rig",
                where=f"camera '{data.name}'",
                hint=f"Set its start frame to {frame_start} and its offset to 0, or use images",
            )
        return path
    if background.image.source == "FILE":
        return [path] + [None] * (frames - 1)
    stem = path.stem
    end = max((i for i, c in enumerate(stem) if c.isdigit()), default=-1) + 1
    start = end
    while start and stem[start - 1].isdigit():
        start -= 1
    found = []
    for scene_frame in range(frame_start, frame_start + frames):
        step = scene_frame - user.frame_start + 1
        if not 1 <= step <= user.frame_duration or start == end:
            found.append(None)
            continue
        number = str(step + user.frame_offset).zfill(end - start)
        file = path.with_name(f"{stem[:start]}{number}{stem[end:]}{path.suffix}")
        found.append(file if file.is_file() else None)
    return found


def _up(root: bpy.types.Object | None) -> np.ndarray:
    """Blender's Z in the coordinates of the rig, (3,) unit."""
    if root is None:
        return np.array([0.0, 0.0, 1.0])
    # The inverse of a rotation is its transpose: the third row, whatever the uniform scale.
    up = np.array(root.matrix_world.to_3x3().row[2])
    return up / np.linalg.norm(up)
