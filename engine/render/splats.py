"""The points of one frame, as every renderer takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import PeelError

#: Spherical-harmonics basis functions for degree 0, 1, 2, 3.
SH_COUNTS = (1, 4, 9, 16)
#: Y_0: a point of constant colour c has the single coefficient c / SH_C0.
SH_C0 = 0.28209479177387814


@dataclass(frozen=True, eq=False)
class Splats:
    """N points of one frame.

    position: (N, 3) float32, world units of the clip.
    radius: (N,) float32, world units; the point is a disk of this radius that faces the camera.
    density: (N,) float32 in [0, 1], opacity at the centre.
    sh: (N, B, 3) float32, B in {1, 4, 9, 16}: colour(d) = clip(sum_b Y_b(d) sh_b, 0, 1) in the
        clip's display-referred sRGB, d = unit direction from the camera centre to the point in the
        clip's world. Real spherical harmonics in the order and sign of the core's sh.h.
    """

    position: np.ndarray
    radius: np.ndarray
    density: np.ndarray
    sh: np.ndarray

    def __post_init__(self) -> None:
        for name in ("position", "radius", "density", "sh"):
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            object.__setattr__(self, name, array)
        n = len(self.position)
        if (
            self.position.shape != (n, 3)
            or self.radius.shape != (n,)
            or self.density.shape != (n,)
            or self.sh.ndim != 3
            or self.sh.shape[0] != n
            or self.sh.shape[1] not in SH_COUNTS
            or self.sh.shape[2] != 3
        ):
            raise PeelError(
                "point arrays disagree: "
                f"position {self.position.shape}, radius {self.radius.shape}, "
                f"density {self.density.shape}, sh {self.sh.shape}",
                hint="Expected (N, 3), (N,), (N,) and (N, 1 | 4 | 9 | 16, 3)",
            )

    def __len__(self) -> int:
        return len(self.position)

    @property
    def sh_degree(self) -> int:
        return SH_COUNTS.index(self.sh.shape[1])

    @property
    def nbytes(self) -> int:
        return self.position.nbytes + self.radius.nbytes + self.density.nbytes + self.sh.nbytes

    @classmethod
    def from_colors(
        cls, position: np.ndarray, radius: np.ndarray, density: np.ndarray, rgb: np.ndarray
    ) -> Splats:
        """Points of constant colour; rgb: (N, 3) in [0, 1], display-referred sRGB."""
        sh = np.asarray(rgb, dtype=np.float32)[:, None, :] / np.float32(SH_C0)
        return cls(position, radius, density, sh)

    @classmethod
    def empty(cls, sh_degree: int = 0) -> Splats:
        """No points at all."""
        return cls(
            np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros((0, SH_COUNTS[sh_degree], 3))
        )
