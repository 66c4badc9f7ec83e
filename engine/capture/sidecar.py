"""peel4d.json: what a capture's own format cannot say, in the capture's folder. All optional:

{
  "test_views": ["03", "11"],     held-out views, by name (replaces the format's own split)
  "fps": 24,                      frames per second of the footage
  "up": [0, 0, 1],                the world's up direction
  "bounds": [[-1, -1, 0], [1, 1, 2]],  box of the subject in the world: minimum, maximum
  "depth_scale": 0.001            world units per step of integer depth maps
}
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import CaptureError
from .capture import Capture
from .parsing import matrix, number, read_json

FILE_NAME = "peel4d.json"
_KEYS = ("test_views", "fps", "up", "bounds", "depth_scale")
_FLOAT_DEPTH = (".exr", ".npy")


def apply_sidecar(capture: Capture, path: Path) -> Capture:
    """`capture` with the statements of the file `path`. Raises CaptureError."""
    document = read_json(path)
    unknown = [key for key in document if key not in _KEYS]
    if unknown:
        raise CaptureError(
            f"'{unknown[0]}' is not known here", where=path, hint=f"Known are: {', '.join(_KEYS)}"
        )
    if "test_views" in document:
        names = document["test_views"]
        if not isinstance(names, list):
            raise CaptureError("'test_views' is not a list of view names", where=path)
        held_out = {capture.view_index(str(name)) for name in names}
        views = tuple(
            replace(view, train=index not in held_out) for index, view in enumerate(capture.views)
        )
        capture = replace(capture, views=views)
    if "fps" in document:
        fps = number(document["fps"], "fps", path)
        if not fps > 0:
            raise CaptureError(f"fps is {fps:g}", where=path)
        capture = replace(capture, fps=fps, time=capture.time * (capture.fps / fps))
    if "up" in document:
        up = matrix(document["up"], (3,), "up", path)
        length = np.linalg.norm(up)
        if length == 0:
            raise CaptureError("up has no direction", where=path)
        capture = replace(capture, up=up / length)
    if "bounds" in document:
        bounds = matrix(document["bounds"], (2, 3), "bounds", path)
        if not (bounds[0] < bounds[1]).all():
            raise CaptureError("bounds are not a minimum and a maximum corner", where=path)
        capture = replace(capture, bounds=bounds)
    if "depth_scale" in document:
        scale = number(document["depth_scale"], "depth_scale", path)
        if not scale > 0:
            raise CaptureError(f"depth_scale is {scale:g}", where=path)
        depths = {
            key: file if file.path.suffix.lower() in _FLOAT_DEPTH else replace(file, scale=scale)
            for key, file in capture.depths.items()
        }
        capture = replace(capture, depths=depths)
    return capture
