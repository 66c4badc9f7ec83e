"""Small rotations of a rig's cameras: no calibration is exact, and a tenth of a pixel is seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..render.camera import Camera

#: Angles are in pixels of an image that is so many pixels long, at its centre.
REFERENCE_LONGER = 640.0


class CameraRotation(torch.nn.Module):
    """Rotations of V cameras about their own centres, learned with what the cameras see.

    Turning is what an image tells best of a wrong calibration: where a camera stands, and its focal
    length, can hardly be told from it while the scene is learned, too. Instead of the camera its
    points are turned, the other way, so that their gradient is all that is needed.

    What a moving scene would look like is no correction: of the rotations that are learned, those
    that a shift of the scene explains, or a turn of one that is far away, are taken out, or cameras
    that learn nothing would not fit any more.

    used: the views that learn. centre: (3,) middle of the scene, world units. raw: (V, 3) rotation
    vectors along the cameras' axes, in pixels of an image that is 640 long.
    """

    def __init__(self, cameras: Sequence[Camera], used: Sequence[int], centre: np.ndarray):
        super().__init__()
        unit = [
            max(c.width, c.height) / REFERENCE_LONGER / np.sqrt(c.K[0, 0] * c.K[1, 1])
            for c in cameras
        ]
        self.raw = torch.nn.Parameter(torch.zeros(len(cameras), 3))
        for name, array in (
            ("unit", np.array(unit)),
            ("R", np.stack([c.R for c in cameras])),
            ("centre", np.stack([c.centre for c in cameras])),
            ("own", _own(cameras, np.array(unit), list(used), np.asarray(centre, np.float64))),
        ):
            self.register_buffer(name, torch.from_numpy(np.float32(array)), persistent=False)
        self._cameras = tuple(cameras)

    def angles(self) -> torch.Tensor:
        """Rotation vectors (V, 3) along the cameras' axes, radians."""
        return (self.own @ self.raw.flatten()).view(-1, 3) * self.unit[:, None]

    def forward(self, view: int, position: torch.Tensor) -> torch.Tensor:
        """Points (N, 3), world units, where the camera as it is given sees them as the turned one
        sees `position`."""
        R, centre = self.R[view], self.centre[view]
        turn = R.T @ torch.linalg.matrix_exp(_cross(self.angles()[view])) @ R
        return (position - centre) @ turn.T + centre

    @torch.no_grad()
    def extrinsics(self) -> tuple[np.ndarray, np.ndarray]:
        """R (V, 3, 3) and t (V, 3), world -> camera, of the turned cameras, float64."""
        angles = self.angles().cpu().double()
        turns = torch.linalg.matrix_exp(torch.stack([_cross(angle) for angle in angles])).numpy()
        R = turns @ np.stack([camera.R for camera in self._cameras])
        centre = np.stack([camera.centre for camera in self._cameras])
        return R, -np.einsum("vij,vj->vi", R, centre)

    @torch.no_grad()
    def moved_pixels(self) -> np.ndarray:
        """How far the centre of every image has moved, (V,), pixels of an image 640 long."""
        return (self.angles() / self.unit[:, None])[:, :2].norm(dim=1).cpu().numpy()


def _own(
    cameras: Sequence[Camera], unit: np.ndarray, used: Sequence[int], centre: np.ndarray
) -> np.ndarray:
    """The projection (3 V, 3 V) of rotations, in pixels, onto what no motion of the scene explains.

    A scene that moves by s looks, from distance z in the direction d, like a camera that turns by
    d x s / z (cameras of a rig are about as far from it); one that is far away and turns looks like
    a camera that turns as much.
    """
    motions = np.zeros((len(cameras), 3, 6))
    for view in used:
        camera = cameras[view]
        away = centre - camera.centre
        away = away / max(float(np.linalg.norm(away)), 1e-12)
        motions[view, :, :3] = camera.R @ _cross(torch.from_numpy(away)).numpy()
        motions[view, :, 3:] = camera.R
        motions[view] /= unit[view]
    motions = motions.reshape(-1, 6)
    learned = np.zeros(len(cameras))
    learned[list(used)] = 1.0
    basis, sizes, _ = np.linalg.svd(motions, full_matrices=False)
    basis = basis[:, sizes > 1e-6 * max(sizes[0], 1e-12)]
    return np.diag(np.repeat(learned, 3)) - basis @ basis.T


def _cross(vector: torch.Tensor) -> torch.Tensor:
    """The matrix (3, 3) whose product with x is the cross product of `vector` (3,) with x."""
    x, y, z = vector.unbind()
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
