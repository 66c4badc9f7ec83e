# SPDX-License-Identifier: GPL-3.0-or-later
"""The cameras of a capture as Blender cameras with the same intrinsics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix

from ..engine.clip.clip import ClipCamera
from ..engine.errors import PeelError
from .render.view import OPENCV_FROM_BLENDER

#: Sensor width given to captured cameras, mm; the focal length in mm follows from it.
SENSOR_WIDTH = 36.0
#: Blender's shortest focal length, mm. Wider lenses get a wider sensor instead.
_SHORTEST_FOCAL_LENGTH = 1.0


@dataclass(frozen=True)
class Lens:
    """Blender's description of an intrinsic matrix, sensor fit horizontal.

    The pixel aspect belongs to the scene's render settings in Blender; it is (1, 1) where fx = fy.
    """

    focal_length: float
    sensor_width: float
    shift_x: float
    shift_y: float
    pixel_aspect_x: float
    pixel_aspect_y: float


def lens_from_intrinsics(K: np.ndarray, width: int, height: int) -> Lens:
    """The lens that `calc_matrix_camera` turns back into K at width x height pixels.

    K: (3, 3), pixels, y down; its skew cannot be expressed and is left out. With sensor fit
    horizontal fx = width * lens / sensor and fy = fx * aspect_x / aspect_y; both shifts are in
    units of the image width. The direct inverse of BKE_camera_params_compute_viewplane.
    """
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if not (np.isfinite(K).all() and fx > 0.0 and fy > 0.0):
        raise PeelError("the focal length is not a positive number", hint="Check the calibration")
    aspect = fx / fy  # height of a pixel over its width
    focal_length = max(fx * SENSOR_WIDTH / width, _SHORTEST_FOCAL_LENGTH)
    return Lens(
        focal_length=focal_length,
        sensor_width=focal_length * width / fx,
        shift_x=(width / 2 - cx) / width,
        shift_y=(cy - height / 2) * aspect / width,
        # Blender accepts no aspect below 1.
        pixel_aspect_x=max(1.0, 1.0 / aspect),
        pixel_aspect_y=max(1.0, aspect),
    )


def intrinsics_of_lens(
    camera: bpy.types.Camera, width: int, height: int, aspect_x: float, aspect_y: float
) -> np.ndarray:
    """K, (3, 3) pixels, of a Blender camera whose picture has width x height pixels of an aspect.

    The formula of BKE_camera_params_compute_viewplane in double precision, for every sensor fit.
    Raises PeelError for cameras that are no pinholes.
    """
    if camera.type != "PERSP":
        raise PeelError(
            f"is {camera.type.lower()}, a rig consists of perspective cameras",
            where=f"camera '{camera.name}'",
            hint="Set the camera's type to Perspective",
        )
    aspect = aspect_y / aspect_x  # height of a pixel over its width
    horizontal = camera.sensor_fit == "HORIZONTAL" or (
        camera.sensor_fit == "AUTO" and width >= height * aspect
    )
    extent = width if horizontal else height * aspect  # pixel widths along the fitted side
    sensor = camera.sensor_height if camera.sensor_fit == "VERTICAL" else camera.sensor_width
    fx = camera.lens / sensor * extent
    return np.array(
        [
            [fx, 0.0, width / 2 - camera.shift_x * extent],
            [0.0, fx / aspect, height / 2 + camera.shift_y * extent / aspect],
            [0.0, 0.0, 1.0],
        ]
    )


def camera_to_world(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(4, 4) matrix of a Blender camera at R, t (world to camera, OpenCV axes)."""
    matrix = np.eye(4)
    matrix[:3, :3] = R.T @ OPENCV_FROM_BLENDER
    matrix[:3, 3] = -R.T @ t
    return matrix


def create_cameras(
    cameras: Iterable[ClipCamera],
    bounds: np.ndarray,
    parent: bpy.types.Object,
    collection: bpy.types.Collection,
    *,
    everything: np.ndarray | None = None,
    scale: float = 1.0,
) -> dict[str, bpy.types.Object]:
    """One Blender camera per captured camera, children of the clip object or rig `parent`.

    As children they keep looking at the same points wherever the clip is moved, turned or scaled.
    bounds: (2, 3) of the subject in the capture's world; sets the clipping distances and the size
    of the symbols. everything: (2, 3) of all that is to be seen, with a background. scale: of the
    parent; Blender's clipping distances are not scaled with it.
    Returns the camera objects by the name of their view.
    """
    diagonal = float(np.linalg.norm(bounds[1] - bounds[0])) or 1.0
    seen = bounds if everything is None else everything
    corners = np.array(np.meshgrid(*seen.T)).reshape(3, -1).T
    created = {}
    for camera in cameras:
        lens = lens_from_intrinsics(camera.K, camera.width, camera.height)
        data = bpy.data.cameras.new(camera.name)
        apply_lens(data, lens)
        data.display_size = 0.05 * diagonal
        data.clip_start = 1e-3 * diagonal * scale
        centre = -camera.R.T @ camera.t
        reach = 2.0 * float(np.linalg.norm(corners - centre, axis=1).max()) + diagonal
        data.clip_end = reach * scale
        captured = data.peel4d
        captured.view = camera.name
        captured.train = camera.train
        captured.width, captured.height = camera.width, camera.height
        camera_object = bpy.data.objects.new(camera.name, data)
        camera_object.parent = parent
        # Euler angles in single precision lose digits near their poles.
        camera_object.rotation_mode = "QUATERNION"
        camera_object.matrix_basis = Matrix(camera_to_world(camera.R, camera.t).tolist())
        collection.objects.link(camera_object)
        created[camera.name] = camera_object
    return created


def apply_lens(data: bpy.types.Camera, lens: Lens) -> None:
    """Give a camera a lens and remember the pixel aspect that it needs."""
    data.sensor_fit = "HORIZONTAL"
    data.sensor_width = lens.sensor_width
    data.lens = lens.focal_length
    data.shift_x = lens.shift_x
    data.shift_y = lens.shift_y
    data.peel4d.pixel_aspect_x = lens.pixel_aspect_x
    data.peel4d.pixel_aspect_y = lens.pixel_aspect_y


def use_captured_format(scene: bpy.types.Scene, camera: bpy.types.Camera) -> None:
    """Give the scene the resolution and the pixel aspect that `camera` was captured with.

    Only then its intrinsics are exact. Raises PeelError when it is not a captured camera.
    """
    captured = camera.peel4d
    if captured.width == 0 or captured.height == 0:
        raise PeelError(
            "was not captured, it has no picture format of its own",
            where=f"camera '{camera.name}'",
            hint="Choose a camera that was imported with a clip",
        )
    render = scene.render
    render.resolution_x = captured.width
    render.resolution_y = captured.height
    render.resolution_percentage = 100
    render.pixel_aspect_x = captured.pixel_aspect_x
    render.pixel_aspect_y = captured.pixel_aspect_y


class Peel4DUseCapturedFormat(bpy.types.Operator):
    """Give the scene the resolution and pixel aspect that this camera was captured with"""

    bl_idname = "camera.peel4d_use_captured_format"
    bl_label = "Use Captured Format"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        camera = _camera_of(context)
        return camera is not None and camera.peel4d.width > 0

    def execute(self, context: bpy.types.Context) -> set[str]:
        use_captured_format(context.scene, _camera_of(context))
        return {"FINISHED"}


def _camera_of(context: bpy.types.Context) -> bpy.types.Camera | None:
    """The camera of the properties editor (which may be pinned), else of the active object."""
    camera = getattr(context, "camera", None)
    if camera is None and context.object is not None and context.object.type == "CAMERA":
        camera = context.object.data
    return camera


def register() -> None:
    bpy.utils.register_class(Peel4DUseCapturedFormat)


def unregister() -> None:
    bpy.utils.unregister_class(Peel4DUseCapturedFormat)
