"""A group of pictures: Gaussians that move and change colour over a few frames.

Every Gaussian has polynomials in time of its own, of few coefficients, where D2GV (arXiv
2503.05600) asks one small MLP for all offsets: on a CPU that network takes most of a training step,
and the polynomials come out better after the same time (docs/video-format.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .gaussians import Gaussians2D

MAX_FRAMES = 64
MAX_GAUSSIANS = 1 << 20
#: Highest power of time.
MAX_ORDER = 6


@dataclass(frozen=True, eq=False)
class Gop:
    """N Gaussians over `frames` frames of a video of width x height pixels; float32.

    position (N, 2): pixels, at the polynomials' mean. log_scale (N, 2): ln of l11 and l22 in
    pixels. shear (N,): l21 / l22. color (N, 3). motion (K, N, 2): coefficients of the Legendre
    polynomials 1 .. K of time, in pixels; time is -1 at the first frame and 1 at the last.
    shade (C, N, 3): the same of the colour.
    """

    frames: int
    width: int
    height: int
    position: np.ndarray
    log_scale: np.ndarray
    shear: np.ndarray
    color: np.ndarray
    motion: np.ndarray
    shade: np.ndarray

    def __len__(self) -> int:
        return len(self.position)

    def at(self, frame: float) -> Gaussians2D:
        """The Gaussians of frame 0 .. frames - 1, or of a time in between."""
        basis = legendre(max(len(self.motion), len(self.shade)), frame_time(frame, self.frames))
        scale = np.exp(self.log_scale)
        cholesky = np.stack([scale[:, 0], self.shear * scale[:, 1], scale[:, 1]], axis=1)
        position = self.position
        if len(self.motion):
            position = position + np.tensordot(basis[: len(self.motion)], self.motion, 1)
        color = self.color
        if len(self.shade):
            color = color + np.tensordot(basis[: len(self.shade)], self.shade, 1)
        return Gaussians2D(position, cholesky, color)


def frame_time(frame: float, frames: int) -> float:
    """-1 at the first of `frames` frames, 1 at the last, 0 where there is only one."""
    return 2 * frame / (frames - 1) - 1 if frames > 1 else 0.0


def legendre(orders: int, time: float) -> np.ndarray:
    """The Legendre polynomials 1 .. orders at a time in [-1, 1], (orders,) float32."""
    values = [1.0, time]
    for k in range(1, orders):
        values.append(((2 * k + 1) * time * values[k] - k * values[k - 1]) / (k + 1))
    return np.array(values[1 : orders + 1], dtype=np.float32)
