"""The camera that every renderer of Peel4D takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Camera:
    """A distortion-free camera.

    K: (3, 3) float64, pixels. Image coordinates are continuous, (0, 0) is the image's top-left
        *corner* and the centre of pixel (column i, row j) is (i + 0.5, j + 0.5).
    R: (3, 3) float64, t: (3,) float64: x_camera = R @ x_world + t, OpenCV axes
        (x right, y down, z forward).
    width, height: pixels. near, far: camera-space z limits, world units; points outside vanish.
    orthographic: K[0, 0] and K[1, 1] are then pixels per world unit and z does not divide.
    """

    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    width: int
    height: int
    near: float = 1e-3
    far: float = 1e6
    orthographic: bool = False

    def __post_init__(self) -> None:
        for name, shape in (("K", (3, 3)), ("R", (3, 3)), ("t", (3,))):
            array = np.array(getattr(self, name), dtype=np.float64).reshape(shape)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "width", int(self.width))
        object.__setattr__(self, "height", int(self.height))

    @property
    def centre(self) -> np.ndarray:
        """Camera centre in the world, (3,)."""
        return -self.R.T @ self.t

    @property
    def forward(self) -> np.ndarray:
        """Viewing direction in the world, unit, (3,)."""
        return self.R[2].copy()

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) -> camera space (..., 3)."""
        return np.asarray(points, dtype=np.float64) @ self.R.T + self.t

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (..., 3) -> pixels (..., 2) and depth z (...).

        Pixels are NaN where a perspective camera sees z <= 0, so that a point behind the camera
        can never pass for one in the image.
        """
        u, v, z = self.image_of(points)
        uv = np.stack([u, v], axis=-1)
        if not self.orthographic:
            uv[np.logical_not(z > 0)] = np.nan
        return uv, z

    def image_of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World points (..., 3) -> pixels u, v (...) and depth z (...), each an array of its own.

        What a perspective camera sees at z <= 0 is not marked here, see `project`.
        """
        points = np.asarray(points, dtype=np.float64)
        linear, shift = self.R.copy(), self.t.copy()
        linear[:2], shift[:2] = self.K[:2, :2] @ self.R[:2], self.K[:2, :2] @ self.t[:2]
        # One product with the points along its rows: several times faster than (..., 3) arrays.
        found = linear @ points.reshape(-1, 3).T
        u, v, z = (row.reshape(points.shape[:-1]) for row in found)
        z = z + shift[2]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            divisor = 1.0 if self.orthographic else z
            u = (u + shift[0]) / divisor + self.K[0, 2]
            v = (v + shift[1]) / divisor + self.K[1, 2]
        return u, v, z

    def rays(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Camera-space points (..., 3) at z = 1 that project to the pixels u, v (...), float64.

        A perspective camera sees all their multiples there, an orthographic one all z.
        """
        y = (v - self.K[1, 2]) / self.K[1, 1]
        x = (u - self.K[0, 2] - self.K[0, 1] * y) / self.K[0, 0]
        return np.stack(np.broadcast_arrays(x, y, np.float64(1.0)), axis=-1)

    def pixel_rays(self) -> np.ndarray:
        """`rays` through the centres of all pixels, (H, W, 3)."""
        rows, columns = np.indices((self.height, self.width)) + 0.5
        return self.rays(columns, rows)

    def crop(self, x: int, y: int, width: int, height: int) -> Camera:
        """The camera of the pixel window with its top-left corner at (x, y)."""
        K = self.K.copy()
        K[0, 2] -= x
        K[1, 2] -= y
        return replace(self, K=K, width=width, height=height)

    def scaled(self, width: int, height: int) -> Camera:
        """The same view at another resolution, (width, height) pixels."""
        K = self.K.copy()
        K[0] *= width / self.width
        K[1] *= height / self.height
        return replace(self, K=K, width=width, height=height)
