"""What all readers share once the numbers are parsed: sizes, time axes, the final checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import CaptureError
from .capture import Capture

SIZE_HINT = "Give the size of the images with --size WxH, for example --size 1920x1080"


def static_if_constant(array: np.ndarray) -> np.ndarray:
    """(F, V, ...) -> (V, ...) when no frame differs from the first, else unchanged.

    Differences up to 1e-9 of the largest value are the noise of printing numbers.
    """
    if len(array) == 0:
        return array[0]
    limit = 1e-9 * max(1.0, float(np.abs(array).max(initial=0.0)))
    return array[0] if float(np.abs(array - array[0]).max(initial=0.0)) <= limit else array


def fill_poses(
    poses: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]],
    frames: int,
    views: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K, R, t of each (frame index, view index) -> arrays with a leading F only where they vary.

    A camera without a pose at some frame keeps the one of its nearest frame (presence says that
    there is no image). Each view needs at least one pose. K may stay (V, 3, 3) while the cameras
    move; R and t have the same leading axes.
    """
    K = np.empty((frames, views, 3, 3))
    R = np.empty((frames, views, 3, 3))
    t = np.empty((frames, views, 3))
    known = np.zeros((frames, views), dtype=bool)
    for key in poses:
        known[key] = True
    for view in range(views):
        have = np.flatnonzero(known[:, view])
        for frame in range(frames):
            nearest = int(have[np.argmin(np.abs(have - frame))])
            K[frame, view], R[frame, view], t[frame, view] = poses[nearest, view]
    pose = static_if_constant(np.concatenate([R, t[..., None]], axis=-1))
    return static_if_constant(K), pose[..., :3].copy(), pose[..., 3].copy()


def unique_names(names: list[str]) -> list[str]:
    """Names made unique by appending _2, _3, ... to repetitions, in order."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique


def checked(capture: Capture) -> Capture:
    """`capture`, if it can be worked with at all.

    Raises CaptureError: no camera, a name that is none, NaN or infinity (names the view), a size
    that is none, a K whose last row is not 0 0 1. Whatever is merely suspicious is the business
    of `health.py`.
    """
    where: Path = capture.path
    if not capture.views:
        raise CaptureError("has no cameras", where=where)
    repeated = [n for n, c in Counter(v.name for v in capture.views).items() if c > 1]
    if repeated:
        raise CaptureError(f"the camera name '{repeated[0]}' is used twice", where=where)
    for index, view in enumerate(capture.views):
        # Results are written under the names of views.
        if not view.name or not view.name.isprintable() or set(view.name) & set("/\\"):
            raise CaptureError(f"the camera name {view.name!r} is no file name", where=where)
        here = f"{where}, view '{view.name}'"
        for name, array, rank in (("K", capture.K, 3), ("R", capture.R, 3), ("t", capture.t, 2)):
            values = array[index] if array.ndim == rank else array[:, index]
            if not np.isfinite(values).all():
                raise CaptureError(
                    f"{name} contains NaN or infinite values",
                    where=here,
                    hint="Calibrate this camera again or remove it from the file",
                )
            if name == "K" and not np.allclose(values[..., 2, :], (0, 0, 1), atol=1e-6):
                raise CaptureError("the last row of K is not 0 0 1", where=here)
        if view.width < 1 or view.height < 1:
            raise CaptureError("the image size is unknown", where=here, hint=SIZE_HINT)
    return capture
