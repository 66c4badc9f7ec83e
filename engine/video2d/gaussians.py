"""Two-dimensional Gaussians: a picture as a sum without order, drawn by the splat core.

C(u) = sum_n c_n exp(-1/2 d^T Sigma_n^-1 d), d = u - mean_n, Sigma = L L^T, shown clamped to [0, 1].
Source: GaussianImage (Zhang et al. 2024), D2GV (arXiv 2503.05600). `cuda/include/peel/gaussian2d.h`
has the arithmetic and says where a Gaussian is cut.
"""

from __future__ import annotations

from ctypes import byref, c_double
from dataclasses import dataclass

import numpy as np

from ..errors import CoreError
from ..render.core_library import CWindow, check, library
from ..render.window import Window

#: Variance of a pixel as a box, in pixels^2: what a smaller picture's pixels average over.
_PIXEL_VARIANCE = 1 / 12


@dataclass(frozen=True)
class Gaussians2D:
    """N Gaussians in the plane of a picture, in float32.

    position: (N, 2) means in pixels, (0, 0) the corner of the picture, x right, y down.
    cholesky: (N, 3) l11, l21, l22 of the lower triangle L in pixels, Sigma = L L^T.
    color: (N, 3) weighted display-referred RGB, of any sign.
    """

    position: np.ndarray
    cholesky: np.ndarray
    color: np.ndarray

    def __len__(self) -> int:
        return len(self.position)

    def resized(self, across: float, down: float) -> Gaussians2D:
        """For a picture `across` times as wide and `down` times as high.

        Where a picture becomes smaller, its Gaussians are blurred by the difference between the two
        pixels' areas, or those thinner than a pixel would flicker.
        """
        if across == 1.0 and down == 1.0:
            return self
        scale = np.array([across, down])
        l11, l21, l22 = (self.cholesky.astype(np.float64) * [across, down, down]).T
        s11, s12, s22 = l11**2, l11 * l21, l21**2 + l22**2
        before = s11 * s22 - s12**2
        s11 = s11 + max(0.0, 1 - across**2) * _PIXEL_VARIANCE
        s22 = s22 + max(0.0, 1 - down**2) * _PIXEL_VARIANCE
        determinant = s11 * s22 - s12**2
        # The sum over the plane, which is color sqrt(det Sigma), stays what it was.
        color = self.color * np.sqrt(before / np.maximum(determinant, 1e-30))[:, None]
        l11 = np.sqrt(s11)
        l21 = s12 / np.maximum(l11, 1e-15)
        l22 = np.sqrt(np.maximum(s22 - l21**2, 0.0))
        return Gaussians2D(
            (self.position * scale).astype(np.float32),
            np.stack([l11, l21, l22], axis=1).astype(np.float32),
            color.astype(np.float32),
        )


def draw(gaussians: Gaussians2D, window: Window, *, threads: int = 0) -> np.ndarray:
    """The picture (height, width, 3) uint8, clamped and rounded. threads: 0 for all that the
    process may use. Raises CoreError."""
    picture = np.empty((window.height, window.width, 3), dtype=np.uint8)
    arrays = checked_arrays(gaussians)
    check(
        library().peel4d_gaussians_draw(
            _window(window, threads), *_inputs(arrays), None, picture.ctypes.data
        )
    )
    return picture


def draw_linear(gaussians: Gaussians2D, window: Window, *, threads: int = 0) -> np.ndarray:
    """The sum itself, (height, width, 3) float32, not clamped. Raises CoreError."""
    picture = np.empty((window.height, window.width, 3), dtype=np.float32)
    arrays = checked_arrays(gaussians)
    check(
        library().peel4d_gaussians_draw(
            _window(window, threads), *_inputs(arrays), picture.ctypes.data, None
        )
    )
    return picture


def backward(
    gaussians: Gaussians2D, window: Window, d_picture: np.ndarray, *, threads: int = 0
) -> Gaussians2D:
    """Gradients of a scalar, given its own with respect to `draw_linear`'s picture."""
    d_picture = np.ascontiguousarray(d_picture, dtype=np.float32)
    if d_picture.shape != (window.height, window.width, 3):
        raise CoreError(f"a gradient of shape {d_picture.shape} for another picture")
    arrays = checked_arrays(gaussians)
    gradients = _like(arrays)
    check(
        library().peel4d_gaussians_backward(
            _window(window, threads),
            *_inputs(arrays),
            d_picture.ctypes.data,
            *(array.ctypes.data for array in gradients),
        )
    )
    return Gaussians2D(*gradients)


def fit(
    gaussians: Gaussians2D, window: Window, target: np.ndarray, *, threads: int = 0
) -> tuple[float, Gaussians2D]:
    """Mean squared error of a window of a picture and its gradients, in one pass.

    target: (H, W, 3) uint8, the whole picture; the window must lie inside. The picture is clamped
    to [0, 1] before it is compared, and the clamp passes gradients on. Raises CoreError.
    """
    check_target(window, target)
    width = target.shape[1]
    arrays = checked_arrays(gaussians)
    gradients = _like(arrays)
    error = c_double()
    first = target.ctypes.data + 3 * (window.y * width + window.x)
    check(
        library().peel4d_gaussians_fit(
            _window(window, threads),
            *_inputs(arrays),
            first,
            3 * width,
            *(array.ctypes.data for array in gradients),
            byref(error),
        )
    )
    return error.value, Gaussians2D(*gradients)


def check_target(window: Window, target: np.ndarray) -> None:
    """Raise CoreError where `fit` cannot compare the window with this array."""
    inside = window.lies_in(target.shape)
    if not inside or target.dtype != np.uint8 or not target.flags.c_contiguous:
        raise CoreError("the target is no contiguous 8-bit picture that holds the window")


def checked_arrays(gaussians: Gaussians2D) -> list[np.ndarray]:
    """Position, cholesky and color, contiguous in float32. Raises CoreError for other shapes."""
    count = len(gaussians)
    arrays = []
    for array, columns in (
        (gaussians.position, 2),
        (gaussians.cholesky, 3),
        (gaussians.color, 3),
    ):
        if array.shape != (count, columns):
            raise CoreError(f"an array of shape {array.shape} for {count} Gaussians")
        arrays.append(np.ascontiguousarray(array, dtype=np.float32))
    return arrays


def _like(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [np.empty_like(array) for array in arrays]


def _inputs(arrays: list[np.ndarray]) -> tuple[int, ...]:
    return len(arrays[0]), *(array.ctypes.data for array in arrays)


def _window(window: Window, threads: int):
    return byref(
        CWindow(x=window.x, y=window.y, width=window.width, height=window.height, threads=threads)
    )
