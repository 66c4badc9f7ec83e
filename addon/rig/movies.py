# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender's own decoder tells about videos: PyAV is not part of Blender."""

from __future__ import annotations

from pathlib import Path

import bpy

from ...engine.capture.video import PROBES, VideoInfo
from ...engine.errors import CaptureError


def probe(path: Path) -> VideoInfo:
    """Size, frame count and rate of a video. Raises CaptureError."""
    try:
        clip = bpy.data.movieclips.load(str(path))
    except RuntimeError as error:
        raise CaptureError("cannot be opened as a video", where=path) from error
    try:
        width, height = clip.size
        if clip.source != "MOVIE" or not (width and height and clip.frame_duration > 0):
            raise CaptureError(
                "cannot be opened as a video",
                where=path,
                hint="Blender must be able to play it: convert it to H.264 in MP4, or to images",
            )
        return VideoInfo(width, height, clip.frame_duration, clip.fps or None)
    finally:
        bpy.data.movieclips.remove(clip)


def register() -> None:
    PROBES.append(probe)


def unregister() -> None:
    PROBES.remove(probe)
