"""What the arrangement of the cameras tells about the world: where they look, which way is up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .capture import Capture

# A rig is judged from at most so many poses; more of a moving camera add nothing.
_MAX_POSES = 2000


def poses(capture: Capture) -> tuple[np.ndarray, np.ndarray]:
    """R (N, 3, 3) and t (N, 3) of all cameras, over all frames where they move (thinned out)."""
    R = capture.R.reshape(-1, 3, 3)
    t = capture.t.reshape(-1, 3)
    step = -(-len(R) // _MAX_POSES)
    return R[::step], t[::step]


@dataclass(frozen=True, eq=False)
class Convergence:
    """How well the optical axes of a rig meet.

    focus: (3,) the point nearest to all axes in the least-squares sense.
    distance: (N,) from each camera to the focus along its axis, negative behind the camera.
    angle: (N,) degrees between each axis and the direction to the focus.
    spread: largest distance of a camera from the mean camera position, world units.
    diversity: smallest eigenvalue of the mean of I - d d^T over unit axes d: 0 for parallel axes
        (the focus means nothing then), 2/3 for axes in all directions.
    """

    focus: np.ndarray
    distance: np.ndarray
    angle: np.ndarray
    spread: float
    diversity: float

    @property
    def surrounds(self) -> bool:
        """The cameras look from clearly different directions at one place in front of them."""
        return bool(
            self.diversity > 0.05  # axes deviate from their mean by 13 degrees rms
            and np.mean(self.distance > 0) >= 0.95
            and np.median(self.angle) < 15
            and np.percentile(self.angle, 90) < 40
            and np.median(self.distance) > 0.25 * self.spread
        )


def convergence(R: np.ndarray, t: np.ndarray) -> Convergence:
    """Convergence of N cameras, R (N, 3, 3) and t (N, 3) world to camera."""
    centre = -np.einsum("nji,nj->ni", R, t)
    axis = R[:, 2] / np.maximum(np.linalg.norm(R[:, 2], axis=1, keepdims=True), 1e-12)
    across = np.eye(3) - axis[:, :, None] * axis[:, None, :]
    normal = across.mean(axis=0)
    focus = np.linalg.pinv(normal, rcond=1e-9, hermitian=True) @ np.einsum(
        "nij,nj->i", across, centre
    )
    focus /= len(centre)
    to_focus = focus - centre
    distance = np.einsum("ni,ni->n", to_focus, axis)
    length = np.linalg.norm(to_focus, axis=1)
    cosine = np.divide(distance, length, out=np.zeros_like(length), where=length > 0)
    return Convergence(
        focus,
        distance,
        np.degrees(np.arccos(np.clip(cosine, -1, 1))),
        float(np.linalg.norm(centre - centre.mean(axis=0), axis=1).max()),
        float(np.linalg.eigvalsh(normal)[0]),
    )


def focus_point(capture: Capture) -> np.ndarray | None:
    """The point that the cameras look at, (3,) world; None where their axes do not meet."""
    found = convergence(*poses(capture))
    meets = found.diversity > 1e-3 and np.median(found.distance) > 0
    return found.focus if meets else None


def estimate_up(capture: Capture) -> np.ndarray | None:
    """A guess of the world's up direction, (3,) unit; None where the cameras agree on none.

    Cameras are rarely rolled: their horizontal axes lie in the ground plane, so up is the
    direction that is perpendicular to all of them, on the side of the cameras' own up directions.
    A rig of parallel cameras leaves that open; the mean of their up directions is taken then.
    """
    R, _ = poses(capture)
    mean_up = -R[:, 1].mean(axis=0)
    length = float(np.linalg.norm(mean_up))
    if length < 0.3:
        return None
    mean_up /= length
    right = R[:, 0]
    values, vectors = np.linalg.eigh(right.T @ right / len(right))
    up = vectors[:, 0] * np.sign(vectors[:, 0] @ mean_up)
    is_clear = values[0] < 0.05 < values[1] and up @ mean_up > 0.5
    return up if is_clear else mean_up
