# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a rig's cameras stand and what their lenses are, in the coordinates of the rig."""

from __future__ import annotations

import bpy
import numpy as np

from ...engine.capture.capture import Capture, View
from ..cameras import intrinsics_of_lens
from ..render.view import pose_of
from .camera_footage import background

#: A camera that differs by less is where the capture says; Blender's numbers are single precision.
_SAME = 2e-6


def poses(
    scene: bpy.types.Scene, items: list, capture: Capture | None, frames: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """K (N, 3, 3), R (N, 3, 3), t (N, 3) of each view; N is `frames` for cameras that may move."""
    rig = scene.peel4d_rig
    formats = [picture_format(scene, item.camera, stated_view(capture, item)) for item in items]
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


def stated_view(capture: Capture | None, item) -> View | None:
    """What the capture says about a view of the rig; None without a capture."""
    return capture.views[capture.view_index(item.name)] if capture else None


def same_cameras(K: np.ndarray, R: np.ndarray, t: np.ndarray, own: list[np.ndarray]) -> bool:
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


def picture_format(
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
    shown = background(camera.data, 0)
    if shown is not None and all(shown.image.size):
        return *shown.image.size, *aspects
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
    """K, R, t of a camera now, in the coordinates of `root`. picture: see `picture_format`."""
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
