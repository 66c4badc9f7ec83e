# SPDX-License-Identifier: GPL-3.0-or-later
"""The footage that a camera of the user's own shows as its background images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import bpy

from ...engine.errors import PeelError


def background(data: bpy.types.Camera, slot: int) -> bpy.types.CameraBackgroundImage | None:
    """The background with the footage (0) or with the masks (1), if it shows an image file."""
    if slot >= len(data.background_images):
        return None
    background = data.background_images[slot]
    has_image = background.source == "IMAGE" and background.image is not None
    return background if has_image and background.image.filepath else None


def starts(cameras: Iterable[bpy.types.Object]) -> list[int]:
    backgrounds = [background(camera.data, 0) for camera in cameras]
    return [b.image_user.frame_start for b in backgrounds if b and b.image.source != "FILE"]


def duration(data: bpy.types.Camera, slot: int) -> int:
    shown = background(data, slot)
    if shown is None:
        return 0
    return 1 if shown.image.source == "FILE" else shown.image_user.frame_duration


def files(
    data: bpy.types.Camera, slot: int, frame_start: int, frames: int
) -> Path | list[Path | None]:
    """One file per frame as the camera's background shows them; a movie as it is. [] without."""
    shown = background(data, slot)
    if shown is None:
        return []
    path = Path(bpy.path.abspath(shown.image.filepath))
    user = shown.image_user
    if shown.image.source == "MOVIE":
        if user.frame_start != frame_start or user.frame_offset:
            raise PeelError(
                "the movie does not start with the rig",
                where=f"camera '{data.name}'",
                hint=f"Set its start frame to {frame_start} and its offset to 0, or use images",
            )
        return path
    if shown.image.source == "FILE":
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
