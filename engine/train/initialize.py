"""The points a frame starts from: visual hull or fused depth, coloured by projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..capture.capture import Capture
from ..capture.images import ImageReader
from ..errors import ReconstructionError
from ..geometry.coloring import project_colors
from ..geometry.depth_fusion import FusionSettings, fuse_depth
from ..geometry.points import Points
from ..geometry.visual_hull import HullSettings, visual_hull
from ..render.camera import Camera
from .plates import surely_subject


def initial_points(
    capture: Capture,
    reader: ImageReader,
    frame: int,
    views: list[int],
    *,
    source: str,
    spacing: float | None = None,
    pixels: float | None = None,
    plates: Mapping[int, np.ndarray] | None = None,
) -> tuple[Points, np.ndarray]:
    """Points of one frame and their colours, (N, 3) float32 in [0, 1].

    source: "hull" or "depth". spacing: world units; by default so many `pixels` of the rig, or as
    many as the source's own settings say. plates: by view, see `plates.clean_plate`; parts of a
    mask's rim that look like them are none of the subject's.
    Raises ReconstructionError when nothing is left.
    """
    seen = _seen(capture, reader, frame, views, plates)
    points = _surface(capture, reader, frame, seen, source, spacing, pixels)
    return points, project_colors(points, seen.cameras, seen.images, seen.masks)


def initial_surface(
    capture: Capture,
    reader: ImageReader,
    frame: int,
    views: list[int],
    *,
    source: str,
    spacing: float | None = None,
    pixels: float | None = None,
    plates: Mapping[int, np.ndarray] | None = None,
) -> Points:
    """The points of `initial_points` without their colours, which take longer."""
    seen = _seen(capture, reader, frame, views, plates)
    return _surface(capture, reader, frame, seen, source, spacing, pixels)


def _surface(capture, reader, frame, seen, source, spacing, pixels):
    given = {} if pixels is None else {"pixels_per_point": pixels}
    if source == "depth":
        depths = [reader.depth(frame, view) for view in seen.views]
        points = fuse_depth(
            seen.cameras,
            depths,
            seen.masks,
            FusionSettings(**given),
            spacing=spacing,
        )
    else:
        bounds = capture.bounds
        settings = HullSettings(**given)
        points = visual_hull(seen.cameras, seen.masks, settings, bounds=bounds, spacing=spacing)
    if len(points.position) == 0:
        raise ReconstructionError(
            f"frame {capture.frames[frame]}: no point survives",
            where=capture.path,
            hint="Do masks and calibration belong together? `peel4d info` checks the rig",
        )
    return points


class _Seen(NamedTuple):
    """The views that have an image of a frame, their cameras, images and masks."""

    views: list[int]
    cameras: list[Camera]
    images: list[np.ndarray]
    masks: list[np.ndarray | None]


def _seen(capture, reader, frame, views, plates):
    views = [view for view in views if (frame, view) in capture.images]
    cameras = [capture.camera(frame, view) for view in views]
    images = [reader.image(frame, view) for view in views]
    masks = [reader.mask(frame, view) for view in views]
    masks = [
        None if mask is None else surely_subject(mask, image, (plates or {}).get(view))
        for view, image, mask in zip(views, images, masks, strict=True)
    ]
    return _Seen(views, cameras, images, masks)
