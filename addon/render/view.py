# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's camera and render settings -> the engine's Camera. The only place that converts."""

from __future__ import annotations

import bpy
import numpy as np

from ...engine.errors import PeelError
from ...engine.render.camera import Camera
from ...engine.render.window import Window

#: Blender's camera axes (x right, y up, z backward) -> OpenCV's (x right, y down, z forward).
OPENCV_FROM_BLENDER = np.diag([1.0, -1.0, -1.0])
#: How far the camera's axes may be from orthogonal; Blender keeps matrices in single precision.
_SHEAR_TOLERANCE = 1e-4


def full_size(render: bpy.types.RenderSettings) -> tuple[int, int]:
    """Width and height of the full frame in pixels, with the percentage as Blender rounds it."""
    scale = render.resolution_percentage
    return (
        max(render.resolution_x * scale // 100, 1),
        max(render.resolution_y * scale // 100, 1),
    )


def render_window(render: bpy.types.RenderSettings) -> Window:
    """The border of the render region (whole frame when there is none), as Blender rounds it."""
    width, height = full_size(render)
    if not render.use_border:
        return Window(0, 0, width, height)
    # Blender multiplies in single precision and cuts off the fraction.
    x0, x1 = (
        int(np.float32(edge) * np.float32(width))
        for edge in (render.border_min_x, render.border_max_x)
    )
    y0, y1 = (
        int(np.float32(edge) * np.float32(height))
        for edge in (render.border_min_y, render.border_max_y)
    )
    return Window(x0, height - y1, x1 - x0, y1 - y0)


def full_camera(
    camera_object: bpy.types.Object,
    depsgraph: bpy.types.Depsgraph,
    render: bpy.types.RenderSettings,
) -> Camera:
    """The camera of the full frame (crop it by the render window).

    camera_object: evaluated camera object. The projection is Blender's own
    (`calc_matrix_camera`), so that sensor fit, lens shift and pixel aspect mean what they mean in
    Cycles. Raises PeelError for panoramic and custom cameras and for sheared ones.
    """
    data = camera_object.data
    if data.type not in ("PERSP", "ORTHO"):
        raise PeelError(
            f"{data.type.lower()} cameras are not supported",
            where=f"camera '{camera_object.name}'",
            hint="Set the camera's type to Perspective or Orthographic",
        )
    width, height = full_size(render)
    projection = np.array(
        camera_object.calc_matrix_camera(
            depsgraph,
            x=width,
            y=height,
            scale_x=render.pixel_aspect_x,
            scale_y=render.pixel_aspect_y,
        ),
        dtype=np.float64,
    )
    orthographic = data.type == "ORTHO"
    # The centre of the image in normalised device coordinates sits in the z column of a
    # perspective projection (z is divided by -z) and in the translation of an orthographic one.
    shift = projection[:2, 3] if orthographic else -projection[:2, 2]
    K = np.array(
        [
            [projection[0, 0] * width / 2, 0.0, (1.0 + shift[0]) * width / 2],
            [0.0, projection[1, 1] * height / 2, (1.0 - shift[1]) * height / 2],
            [0.0, 0.0, 1.0],
        ]
    )
    R, t = world_to_camera(camera_object)
    return Camera(
        K=K,
        R=R,
        t=t,
        width=width,
        height=height,
        near=data.clip_start,
        far=data.clip_end,
        orthographic=orthographic,
    )


def world_to_camera(camera_object: bpy.types.Object) -> tuple[np.ndarray, np.ndarray]:
    """R (3, 3) and t (3,) of an evaluated camera object, OpenCV axes. Its scale is taken out.

    Raises PeelError when its parents shear it: no pinhole camera sees the world like that.
    """
    return pose_of(np.array(camera_object.matrix_world, dtype=np.float64), camera_object.name)


def pose_of(matrix: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """`world_to_camera` of a matrix (4, 4), Blender's camera axes to the world."""
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or lengths.min() <= 0.0:
        raise PeelError("the camera has no size or no position", where=name)
    axes = matrix[:3, :3] / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > _SHEAR_TOLERANCE:
        raise PeelError(
            "the camera is sheared by the scale of its parents",
            where=f"camera '{name}'",
            hint="Make the scale of the camera's parents uniform",
        )
    # The nearest orthogonal matrix, which removes the rounding of single precision.
    left, _, right = np.linalg.svd(axes)
    R = OPENCV_FROM_BLENDER @ (left @ right).T
    return R, -R @ matrix[:3, 3]


def region_camera(
    window_matrix: np.ndarray,
    view_matrix: np.ndarray,
    width: int,
    height: int,
    clip: tuple[float, float] | None = None,
) -> Camera:
    """The camera of a 3D viewport.

    window_matrix, view_matrix: (4, 4), of its RegionView3D; they hold lens, shift, zoom and offset.
    width, height: of its region in pixels. clip: near and far where they are known; else they are
    taken from the matrix, where single precision leaves few digits of far.
    Raises PeelError for a matrix that no pinhole or orthographic camera has.
    """
    projection = np.asarray(window_matrix, dtype=np.float64)
    orthographic = bool(projection[3, 3] != 0.0)
    shift = projection[:2, 3] if orthographic else -projection[:2, 2]
    # Zero or not finite: the region is not laid out yet.
    if not (np.isfinite(projection).all() and (np.diag(projection)[:3] != 0.0).all()):
        raise PeelError("the viewport has no projection yet")
    if clip is None:
        a, b = projection[2, 2], projection[2, 3]
        near, far = ((b + 1) / a, (b - 1) / a) if orthographic else (b / (a - 1), b / (a + 1))
    else:
        near, far = clip
    K = np.array(
        [
            [projection[0, 0] * width / 2, 0.0, (1.0 + shift[0]) * width / 2],
            [0.0, projection[1, 1] * height / 2, (1.0 - shift[1]) * height / 2],
            [0.0, 0.0, 1.0],
        ]
    )
    to_view = np.asarray(view_matrix, dtype=np.float64)
    left, scale, right = np.linalg.svd(to_view[:3, :3])
    if not (np.isfinite(to_view).all() and scale[-1] > 0.0):
        raise PeelError("the viewport has no view yet")
    R = OPENCV_FROM_BLENDER @ left @ right
    # The centre stays where it is although the axes are made orthonormal.
    centre = -np.linalg.solve(to_view[:3, :3], to_view[:3, 3])
    return Camera(
        K=K,
        R=R,
        t=-R @ centre,
        width=width,
        height=height,
        near=near,
        far=far,
        orthographic=orthographic,
    )


def camera_frame(
    camera: Camera, camera_object: bpy.types.Object, scene: bpy.types.Scene
) -> tuple[float, float, float, float]:
    """Where the picture of an evaluated scene camera lies in a viewport that looks through it.

    camera: of the viewport. Returns left, top, right, bottom in pixels of the region, y down.
    """
    corners = np.array([tuple(c) for c in camera_object.data.view_frame(scene=scene)])
    # In the camera's own axes: the viewport's, whatever scale the camera object has.
    x, y, z = (corners * [1.0, -1.0, -1.0]).T
    divisor = 1.0 if camera.orthographic else z
    u = camera.K[0, 0] * x / divisor + camera.K[0, 2]
    v = camera.K[1, 1] * y / divisor + camera.K[1, 2]
    return float(u.min()), float(v.min()), float(u.max()), float(v.max())


def border_window(
    frame: tuple[float, float, float, float],
    border: tuple[float, float, float, float],
    width: int,
    height: int,
) -> Window:
    """A border (min x, min y, max x, max y; shares of `frame`, y up) inside a region, in pixels."""
    left, top, right, bottom = frame
    x0, x1 = (left + share * (right - left) for share in (border[0], border[2]))
    y0, y1 = (bottom + share * (top - bottom) for share in (border[3], border[1]))
    x0, x1 = (min(max(round(x), 0), width) for x in (x0, x1))
    y0, y1 = (min(max(round(y), 0), height) for y in (y0, y1))
    return Window(x0, y0, max(x1 - x0, 0), max(y1 - y0, 0))
