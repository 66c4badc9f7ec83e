"""What the cameras alone say about the scene: where they look, how large it is, how fine they see.

Everything is relative to the rig, so that a capture in millimetres and one in metres give the same
points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ReconstructionError
from ..render.camera import Camera

#: Below this mean squared sine between the optical axes the point where they meet is not defined
#: (about 3 degrees of convergence).
_MIN_CONVERGENCE = 3e-3


def check_cameras(cameras: Sequence[Camera]) -> None:
    """Raises ReconstructionError when a camera holds NaN or infinity, or has no focal length."""
    for index, camera in enumerate(cameras):
        finite = all(np.isfinite(a).all() for a in (camera.K, camera.R, camera.t))
        if not finite or camera.K[0, 0] <= 0 or camera.K[1, 1] <= 0:
            raise ReconstructionError(
                "the calibration of a camera is not usable (NaN, infinite or no focal length)",
                where=f"camera {index}",
                hint="`peel4d info` lists what is wrong with a capture",
            )


def focus_point(cameras: Sequence[Camera]) -> np.ndarray:
    """The world point (3,) nearest to all optical axes, in the least-squares sense.

    Raises ReconstructionError where the axes are (nearly) parallel or meet behind the cameras.
    """
    check_cameras(cameras)
    A, b = np.zeros((3, 3)), np.zeros(3)
    for camera in cameras:
        direction = camera.forward
        across = np.eye(3) - np.outer(direction, direction)
        A += across
        b += across @ camera.centre
    if not len(cameras) or np.linalg.eigvalsh(A)[0] < _MIN_CONVERGENCE * len(cameras):
        raise ReconstructionError(
            "the cameras' optical axes do not meet, so the place of the subject is not known",
            hint="State the bounds of the scene",
        )
    focus = np.linalg.solve(A, b)
    ahead = sum(c.orthographic or c.to_camera(focus)[2] > 0 for c in cameras)
    if ahead * 2 < len(cameras):
        raise ReconstructionError(
            f"only {ahead} of {len(cameras)} cameras face the point where their axes meet",
            hint="World-to-camera and camera-to-world may be swapped; else state the bounds",
        )
    return focus


def rig_bounds(cameras: Sequence[Camera]) -> np.ndarray:
    """The cube (2, 3) around the focus point that reaches as far as the farthest camera.

    It is only the space that a hull is searched in: what too few cameras see falls away there.
    """
    focus = focus_point(cameras)
    reach = max(float(np.linalg.norm(camera.centre - focus)) for camera in cameras)
    return np.stack([focus - reach, focus + reach])


def in_frustum(camera: Camera, points: np.ndarray, reach: np.ndarray | float) -> np.ndarray:
    """Which points (N, 3) a perspective camera may see a part of, (N,) bool.

    They are between the four planes through its image's borders, or no farther outside than `reach`
    (N,), world units; those behind the camera are taken for beside it.
    """
    p = camera.to_camera(points)
    z = np.maximum(p[:, 2], 0)
    K, width, height = camera.K, camera.width, camera.height
    inside = (p[:, 0] + reach > -z * K[0, 2] / K[0, 0]) & (p[:, 1] + reach > -z * K[1, 2] / K[1, 1])
    inside &= p[:, 0] - reach < z * (width - K[0, 2]) / K[0, 0]
    return inside & (p[:, 1] - reach < z * (height - K[1, 2]) / K[1, 1])


def pixel_size(cameras: Sequence[Camera], point: np.ndarray) -> float:
    """The median over the cameras of one pixel's size at `point` (3,), world units."""
    sizes = []
    for camera in cameras:
        focal = float(np.sqrt(camera.K[0, 0] * camera.K[1, 1]))
        distance = 1.0 if camera.orthographic else np.linalg.norm(camera.centre - point)
        sizes.append(distance / focal)
    return float(np.median(sizes))
