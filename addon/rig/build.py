# SPDX-License-Identifier: GPL-3.0-or-later
"""A capture becomes a collection of Blender cameras under one empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from ...engine.capture.capture import Capture
from ...engine.capture.detect import open_capture
from ...engine.capture.health import Finding, examine
from ...engine.capture.images import bends
from ...engine.capture.orientation import convergence, estimate_up, poses
from ...engine.clip.clip import ClipCamera
from ...engine.errors import CaptureError
from ..blend_paths import absolute, stored_path
from ..cameras import create_cameras, intrinsics_of_lens, lens_from_intrinsics
from ..import_clip import UP_AXES, rotation_to_z
from .animation import animate, moves
from .backgrounds import set_backgrounds
from .preparation import cache_folder

#: File names that say nothing about the capture; the folder's name does.
_CALIBRATION_STEMS = ("transforms", "train_meta", "test_meta", "intri", "extri", "peel4d_rig")
#: Cameras within these many Blender units of their subject are left at the capture's scale.
_SENSIBLE_DISTANCE = (0.5, 50.0)
#: A camera whose numbers differ by less, relative, is where the capture says.
_SAME = 2e-6
#: Cosine of 8 degrees.
_NEAR_AN_AXIS = 0.99


@dataclass(frozen=True)
class ImportedRig:
    """root: the empty. cameras: by the name of the view. warnings: for the user."""

    capture: Capture
    root: bpy.types.Object
    cameras: dict[str, bpy.types.Object]
    warnings: tuple[str, ...]


def open_for_rig(path: Path, size: tuple[int, int] | None) -> Capture:
    """The capture, if Blender's cameras can show it. Raises CaptureError."""
    capture = open_capture(path, size=size)
    for index, view in enumerate(capture.views):
        for K in capture.K[:, index] if capture.K.ndim == 4 else capture.K[index][None]:
            try:
                lens_from_intrinsics(K, view.width, view.height)
            except Exception as error:
                raise CaptureError(
                    "the focal length is not a positive number",
                    where=f"{path}, view '{view.name}'",
                    hint="Check the calibration with the health check (peel4d info)",
                ) from error
    return capture


def import_rig(
    scene: bpy.types.Scene,
    collection: bpy.types.Collection,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    up: str = "AUTO",
    scale: float = 0.0,
    frame_start: int = 1,
    relative_path: bool = False,
    set_frame_range: bool = True,
    set_frame_rate: bool = True,
) -> ImportedRig:
    """Add a capture to a scene and make it the scene's rig.

    path: folder or calibration file. size: pixels, for captures without one. up: the capture's
    axis that becomes Blender's Z, one of UP_AXES, or AUTO. scale: Blender units per unit of the
    capture, 0 = the power of ten that brings the cameras to a sensible distance. frame_start:
    scene frame of the first frame. relative_path: store the path relative to the .blend file.
    Raises CaptureError; then nothing was added.
    """
    path = Path(path).absolute()
    capture = open_for_rig(path, size)
    name = capture_name(path)
    scale = scale or automatic_scale(capture)

    group = bpy.data.collections.new(f"{name} rig")
    collection.children.link(group)
    root = bpy.data.objects.new(f"{name} rig", None)
    group.objects.link(root)
    root.empty_display_type = "ARROWS"
    root.empty_display_size = 0.2 * _distance(capture)
    root.matrix_basis = placement(up_direction(capture, up), scale)
    first = [
        ClipCamera(view.name, c.K, nearest_rotation(c.R), c.t, view.width, view.height, view.train)
        for view, c in ((v, capture.camera(0, i)) for i, v in enumerate(capture.views))
    ]
    cameras = create_cameras(first, _bounds(capture), root, group, scale=scale)

    rig = scene.peel4d_rig
    rig.root = root
    rig.size = size or (0, 0)
    rig.capture_path = stored_path(path, relative=relative_path)
    rig.frame_start = frame_start
    rig.show = "IMAGES" if capture.images or not capture.masks else "MASKS"
    fill_views(rig, capture, cameras)
    if capture.moving:
        animate(capture, cameras, frame_start)
    set_findings(rig, examine(capture, check_images=False))
    set_backgrounds(rig, capture, cache_folder(capture))
    if set_frame_range:
        scene.frame_start = frame_start
        scene.frame_end = frame_start + len(capture.frames) - 1
        if not scene.frame_start <= scene.frame_current <= scene.frame_end:
            scene.frame_set(frame_start)
    if set_frame_rate:
        scene.render.fps = max(round(capture.fps), 1)
        scene.render.fps_base = scene.render.fps / capture.fps
    if scene.camera is None:
        scene.camera = next(iter(cameras.values()))
    return ImportedRig(capture, root, cameras, tuple(_warnings(capture)))


def capture_name(path: Path) -> str:
    if path.is_dir() or not path.stem.lower().startswith(_CALIBRATION_STEMS):
        return path.stem if path.is_file() else path.name
    return path.parent.name


def nearest_rotation(R: np.ndarray) -> np.ndarray:
    """The rotation closest to R, which calibrations print with few digits; mirrors stay."""
    left, _, right = np.linalg.svd(R)
    return left @ right


def up_direction(capture: Capture, up: str = "AUTO") -> np.ndarray:
    """(3,) unit vector of the capture's world that becomes Blender's Z."""
    if up != "AUTO":
        return np.array(UP_AXES[up])
    if capture.up is not None:
        return np.asarray(capture.up)
    estimated = estimate_up(capture)
    if estimated is None:
        return np.array(UP_AXES["Z"])
    # Calibrations mostly have their floor in a coordinate plane; an estimate only comes near it.
    largest = int(np.argmax(np.abs(estimated)))
    axis = np.eye(3)[largest] * np.sign(estimated[largest])
    return axis if axis @ estimated > _NEAR_AN_AXIS else estimated


def placement(up: np.ndarray, scale: float) -> Matrix:
    """Capture coordinates -> Blender: `up` becomes Z, everything is scaled about the origin."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation_to_z(up)
    return Matrix(matrix.tolist())


def automatic_scale(capture: Capture) -> float:
    """1, or the power of ten that brings cameras in millimetres or kilometres near the subject."""
    distance = _distance(capture)
    low, high = _SENSIBLE_DISTANCE
    if low <= distance <= high:
        return 1.0
    return float(10.0 ** -np.round(np.log10(distance / 3.0)))


def _distance(capture: Capture) -> float:
    """Typical distance of the cameras from what they look at, capture units, > 0."""
    found = convergence(*poses(capture))
    if found.diversity > 1e-3 and (ahead := found.distance[found.distance > 0]).size:
        return float(np.median(ahead)) or 1.0
    return found.spread or 1.0


def _bounds(capture: Capture) -> np.ndarray:
    """(2, 3) box of the subject: as stated, else a cube between the cameras."""
    if capture.bounds is not None:
        return np.asarray(capture.bounds)
    found = convergence(*poses(capture))
    half = 0.4 * _distance(capture)
    R, t = poses(capture)
    centre = -np.einsum("nji,nj->ni", R, t).mean(axis=0)
    focus = found.focus if found.diversity > 1e-3 else centre
    return np.stack([focus - half, focus + half])


def fill_views(rig, capture: Capture, cameras: dict[str, bpy.types.Object]) -> None:
    """The list of views anew. cameras: by the name of the view, where there are any."""
    rig.views.clear()
    rig.active_view = 0
    rig.format = capture.format
    rig.fps = capture.fps
    rig.frame_count = len(capture.frames)
    rig.first_label = capture.frames[0]
    for view in capture.views:
        item = rig.views.add()
        item.name = view.name
        item.camera = cameras.get(view.name)
        item.test = not view.train
    count_files(rig, capture)
    for item in rig.views:
        if item.camera is not None:
            item.calibrated = state_of(item.camera)


def count_files(rig, capture: Capture) -> None:
    """What the capture has of each view of the list."""
    for item in rig.views:
        index = capture.view_index(item.name)
        item.frames = sum(v == index for _, v in capture.images)
        item.masks = sum(v == index for _, v in capture.masks)
        item.lens = capture.views[index].lens
        item.is_distorted = bends(capture.views[index])
        item.is_static = not any(
            moves(array, index, rank)
            for array, rank in ((capture.K, 3), (capture.R, 3), (capture.t, 2))
        )


def state_of(camera: bpy.types.Object) -> list[float]:
    """Where a camera stands in its rig and its lens, 20 numbers; see `Peel4DRigView.calibrated`."""
    data = camera.data
    captured = data.peel4d
    # Any format will do for telling whether something has changed.
    width, height = captured.width or 1, captured.height or 1
    K = intrinsics_of_lens(data, width, height, captured.pixel_aspect_x, captured.pixel_aspect_y)
    matrix = np.array(camera.matrix_parent_inverse @ camera.matrix_basis)
    return [*matrix.ravel().tolist(), K[0, 0], K[1, 1], K[0, 2], K[1, 2]]


def is_edited(item, root: bpy.types.Object | None) -> bool:
    """Whether a view's camera no longer stands where the capture says. Cheap; static views only."""
    camera = item.camera
    if camera is None or not item.is_static or not any(item.calibrated):
        return False
    if camera.parent != root or camera.constraints or camera.type != "CAMERA":
        return True
    if camera.data.type != "PERSP":
        return True
    now, then = np.array(state_of(camera)), np.array(item.calibrated)
    # Single precision of matrices and pixels.
    size = max(1.0, float(np.abs(then[[3, 7, 11]]).max()))
    pixels = max(1.0, float(np.abs(then[16:]).max()))
    return bool(
        np.abs(now[:16] - then[:16]).max() > _SAME * size
        or np.abs(now[16:] - then[16:]).max() > _SAME * pixels
    )


def set_findings(rig, findings: Sequence[Finding]) -> None:
    rig.findings.clear()
    for finding in findings:
        item = rig.findings.add()
        item.severity, item.text, item.where = finding.severity, finding.text, finding.where


def rig_size(rig) -> tuple[int, int] | None:
    """The image size that the user gave for a capture that states none."""
    return tuple(rig.size) if all(rig.size) else None


def open_rig_capture(scene: bpy.types.Scene) -> Capture:
    """The capture of the scene's rig, read again. Raises CaptureError."""
    rig = scene.peel4d_rig
    if not rig.capture_path:
        raise CaptureError(
            "the scene has no capture",
            where=f"scene '{scene.name}'",
            hint="Import one with File > Import > Multi-view Capture",
        )
    return open_capture(Path(absolute(rig.capture_path, scene)), size=rig_size(rig))


def refresh_backgrounds(scene: bpy.types.Scene) -> None:
    """Show what is there now: files may have been prepared or moved. Raises CaptureError."""
    capture = open_rig_capture(scene)
    set_backgrounds(scene.peel4d_rig, capture, cache_folder(capture))


def _warnings(capture: Capture) -> list[str]:
    found = []
    K = capture.K if capture.K.ndim == 4 else capture.K[None]
    heights = np.array([view.height for view in capture.views])
    skewed = np.abs(K[..., 0, 1] / K[..., 1, 1]).max(axis=0) * heights > 0.5
    if skewed.any():
        names = [v.name for v, is_skewed in zip(capture.views, skewed, strict=True) if is_skewed]
        found.append(f"Blender's cameras have no skew, pictures are off by it: {', '.join(names)}")
    R = capture.R.reshape(-1, 3, 3)
    if (np.linalg.det(R) < 0).any():
        found.append("Some cameras mirror the world; see the health check")
    return found
