# SPDX-License-Identifier: GPL-3.0-or-later
"""Cameras that move during a capture, as keyframes."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix

from ...engine.capture.capture import Capture
from ..cameras import camera_to_world, lens_from_intrinsics

_LINEAR = 1  # in the enumeration of Keyframe.interpolation


def animate(capture: Capture, cameras: dict[str, bpy.types.Object], frame_start: int) -> None:
    """Give each camera a keyframe of its pose, and of its lens where that changes, at each frame.

    cameras: by the name of the view. frame_start: scene frame of the capture's first frame.
    """
    frames = frame_start + np.arange(len(capture.frames))
    for index, view in enumerate(capture.views):
        camera = cameras[view.name]
        if moves(capture.R, index, 3) or moves(capture.t, index, 2):
            locations, rotations = _poses(capture, index)
            _set_keys(camera, "location", frames, locations)
            _set_keys(camera, "rotation_quaternion", frames, rotations)
        if moves(capture.K, index, 3):
            lenses = [lens_from_intrinsics(K, view.width, view.height) for K in capture.K[:, index]]
            # A wide lens has another sensor; only the ratio of the two counts.
            sensor = camera.data.sensor_width
            values = np.array(
                [(n.focal_length * sensor / n.sensor_width, n.shift_x, n.shift_y) for n in lenses]
            )
            for column, path in enumerate(("lens", "shift_x", "shift_y")):
                _set_keys(camera.data, path, frames, values[:, column : column + 1])


def moves(array: np.ndarray, view: int, rank: int) -> bool:
    """Whether K, R or t of a capture (rank without frames: 3, 3 and 2) changes for one view."""
    return array.ndim > rank and bool((array[:, view] != array[:1, view]).any())


def _poses(capture: Capture, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Locations (F, 3) and unit quaternions (F, 4) that turn the short way between frames."""
    locations, rotations = [], []
    for R, t in zip(capture.R[:, view], capture.t[:, view], strict=True):
        left, _, right = np.linalg.svd(R)
        matrix = Matrix(camera_to_world(left @ right, t).tolist())
        rotation = np.array(matrix.to_quaternion())
        if rotations and rotation @ rotations[-1] < 0:
            rotation = -rotation
        locations.append(np.array(matrix.translation))
        rotations.append(rotation)
    return np.array(locations), np.array(rotations)


def _set_keys(data: bpy.types.ID, path: str, frames: np.ndarray, values: np.ndarray) -> None:
    """Linear keys of all components of a property. frames: (F,); values: (F, components)."""
    # The first one makes the action, and in newer Blenders its layer, strip and slot.
    data.keyframe_insert(path, frame=float(frames[0]))
    for curve in _curves(data):
        if curve.data_path != path:
            continue
        points = curve.keyframe_points
        points.add(len(frames) - len(points))
        coordinates = np.stack([frames, values[:, curve.array_index]], axis=1)
        points.foreach_set("co", coordinates.astype(np.float32).ravel())
        points.foreach_set("interpolation", np.full(len(frames), _LINEAR))
        curve.update()


def _curves(data: bpy.types.ID):
    animation = data.animation_data
    action = animation.action
    if not hasattr(animation, "action_slot"):  # before Blender 4.4
        return action.fcurves
    # A camera and its object share one action, each with a slot in it.
    return action.layers[0].strips[0].channelbag(animation.action_slot).fcurves
