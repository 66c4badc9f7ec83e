"""The points a frame starts from: visual hull or fused depth, coloured by projection."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..capture.capture import Capture
from ..capture.images import ImageReader
from ..errors import ReconstructionError
from ..geometry.coloring import project_colors
from ..geometry.depth_fusion import fuse_depth
from ..geometry.points import Points
from ..geometry.visual_hull import visual_hull
from .plates import surely_subject


def initial_points(
    capture: Capture,
    reader: ImageReader,
    frame: int,
    views: list[int],
    *,
    source: str,
    spacing: float | None = None,
    plates: Mapping[int, np.ndarray] | None = None,
) -> tuple[Points, np.ndarray]:
    """Points of one frame and their colours, (N, 3) float32 in [0, 1].

    source: "hull" or "depth". spacing: world units; by default the rig's own. plates: by view, see
    `plates.clean_plate`; parts of a mask's rim that look like them are none of the subject's.
    Raises ReconstructionError when nothing is left.
    """
    points = initial_surface(
        capture, reader, frame, views, source=source, spacing=spacing, plates=plates
    )
    views, cameras, images, masks = _seen(capture, reader, frame, views, plates)
    return points, project_colors(points, cameras, images, masks)


def initial_surface(
    capture: Capture,
    reader: ImageReader,
    frame: int,
    views: list[int],
    *,
    source: str,
    spacing: float | None = None,
    plates: Mapping[int, np.ndarray] | None = None,
) -> Points:
    """The points of `initial_points` without their colours, which take longer."""
    views, cameras, _, masks = _seen(capture, reader, frame, views, plates)
    if source == "depth":
        depths = [reader.depth(frame, view) for view in views]
        points = fuse_depth(cameras, depths, masks, spacing=spacing)
    else:
        points = visual_hull(cameras, masks, bounds=capture.bounds, spacing=spacing)
    if len(points.position) == 0:
        raise ReconstructionError(
            f"frame {capture.frames[frame]}: no point survives",
            where=capture.path,
            hint="Do masks and calibration belong together? `peel4d info` checks the rig",
        )
    return points


def _seen(capture, reader, frame, views, plates):
    """The views that have an image of a frame, their cameras, images and masks."""
    views = [view for view in views if (frame, view) in capture.images]
    cameras = [capture.camera(frame, view) for view in views]
    images = [reader.image(frame, view) for view in views]
    masks = [reader.mask(frame, view) for view in views]
    masks = [
        None if mask is None else surely_subject(mask, image, (plates or {}).get(view))
        for view, image, mask in zip(views, images, masks, strict=True)
    ]
    return views, cameras, images, masks
