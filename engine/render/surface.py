"""The surface that a picture of points shows: one world point per pixel.

Image-based colour is sampled there instead of at the points, which are coarser than pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Camera

#: Pixels with less alpha show next to nothing of the points and have no surface.
MIN_ALPHA = 0.05
#: Standard deviations of the smoothing: in pixels, and in spacings of depth.
_SMOOTH_PIXELS = 2.0
_SMOOTH_SPACINGS = 3.0
#: The surface lies this far before the points' centres, in spacings.
_BEFORE_CENTRES = 0.25


@dataclass(frozen=True, eq=False)
class SurfacePixels:
    """The M pixels of a picture that show points.

    row, column: (M,) int64. position: (M, 3) float32, world units. alpha: (M,) and rgb: (M, 3)
    float32, coverage and colour, not premultiplied.
    """

    row: np.ndarray
    column: np.ndarray
    position: np.ndarray
    alpha: np.ndarray
    rgb: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


def mean_surface(rgba: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Mean camera-space z of the layers, (H, W) float32, +inf where alpha is below 0.3.

    rgba: (H, W, 4). depth: (H, W), sum of T_k alpha_k z_k, as the peel returns it. This is what
    a source view's occlusion test compares with.
    """
    alpha = rgba[..., 3]
    return np.where(alpha > 0.3, depth / np.maximum(alpha, 1e-6), np.inf).astype(np.float32)


def surface_pixels(
    rgba: np.ndarray,
    depth: np.ndarray,
    surface: np.ndarray,
    camera: Camera,
    spacing: float,
    area: np.ndarray | None = None,
) -> SurfacePixels:
    """Where the pixels' surface is in the world.

    rgba: (H, W, 4) premultiplied; depth: (H, W) sum of T_k alpha_k z_k; surface: (H, W) z of the
    layer at which alpha reaches 0.5, +inf elsewhere. spacing: of the points, world units. area:
    (H, W) bool, the pixels that are wanted. The depth is smoothed across pixels, not across edges
    of depth, because points are disks that face the camera and make steps where surfaces slant.
    """
    alpha = rgba[..., 3]
    shown = alpha > MIN_ALPHA
    mean = depth / np.maximum(alpha, 1e-6)
    z = np.where(np.isfinite(surface), surface, mean)
    z = _smoothed(np.where(shown, z, 0).astype(np.float32), spacing)
    row, column = np.nonzero(shown if area is None else shown & area)
    z = z[row, column] - _BEFORE_CENTRES * spacing
    seen = camera.rays(column + 0.5, row + 0.5)
    seen[:, :2] *= 1.0 if camera.orthographic else z[:, None]
    seen[:, 2] = z
    return SurfacePixels(
        row,
        column,
        ((seen - camera.t) @ camera.R).astype(np.float32),
        alpha[row, column].astype(np.float32),
        (rgba[row, column, :3] / alpha[row, column, None]).astype(np.float32),
    )


def _smoothed(z: np.ndarray, spacing: float) -> np.ndarray:
    """Bilateral filter of depths (H, W); 0 where there is none.

    Source: Tomasi and Manduchi 1998, Gaussian in pixels and in depth.
    """
    reach = int(np.ceil(2 * _SMOOTH_PIXELS))
    padded = np.pad(z, reach)
    total, weight = np.zeros_like(z), np.zeros_like(z)
    height, width = z.shape
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            apart = dx * dx + dy * dy
            if apart > reach * reach:
                continue
            other = padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            step = (other - z) / (_SMOOTH_SPACINGS * spacing)
            w = np.exp(-apart / (2 * _SMOOTH_PIXELS**2) - step * step) * (other > 0)
            total += w * other
            weight += w
    return np.where(weight > 0, total / np.maximum(weight, 1e-12), z)
