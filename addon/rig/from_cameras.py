# SPDX-License-Identifier: GPL-3.0-or-later
"""Cameras that are in the scene already become its rig."""

from __future__ import annotations

from collections.abc import Iterable

import bpy

from ...engine.errors import PeelError
from .build import set_findings
from .camera_footage import background, duration, starts


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
    if not any(background(c.data, 0) for c in cameras):
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
    rig.frame_start = min(starts(cameras), default=scene.frame_start)
    for camera in cameras:
        item = rig.views.add()
        item.name = _view_name(camera)
        item.camera = camera
        item.test = bool(camera.data.peel4d.width) and not camera.data.peel4d.train
        item.frames = duration(camera.data, 0)
        item.masks = duration(camera.data, 1)
    rig.frame_count = max(item.frames for item in rig.views)
    set_findings(rig, [])


def _view_name(camera: bpy.types.Object) -> str:
    return (camera.data.peel4d.view or camera.name).replace("/", "_").replace("\\", "_")
