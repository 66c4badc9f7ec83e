"""Pictures of points: the entry that everybody calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CoreError
from . import core
from .camera import Camera
from .settings import PeelSettings, Rendered
from .splats import Splats

DEFAULT = PeelSettings()


@dataclass(frozen=True, eq=False)
class Instance:
    """A clip's points placed in the world.

    matrix: (4, 4) float64, clip -> world, affine. opacity: multiplies the density.
    """

    splats: Splats
    matrix: np.ndarray
    opacity: float = 1.0


def render(
    splats: Splats, camera: Camera, settings: PeelSettings = DEFAULT, *, threads: int = 0
) -> Rendered:
    """Peel one cloud, as `reference` defines it. threads: 0 for $PEEL4D_THREADS or all cores.

    Raises CoreError.
    """
    out = core.forward(
        splats.position,
        splats.radius,
        splats.density,
        splats.sh,
        camera,
        settings,
        threads=threads,
    )
    return Rendered(out["rgba"], out["surface"])


def render_scene(
    instances: Sequence[Instance],
    camera: Camera,
    settings: PeelSettings = DEFAULT,
    *,
    threads: int = 0,
) -> Rendered:
    """Peel several clouds together, in one depth order.

    Positions take the whole matrix, the radius its largest singular value (a stretched object
    shows no gaps). Harmonics are evaluated in the clip's own space, where the camera is brought,
    so they are never rotated. No instances give an empty picture. Raises CoreError.
    """
    parts = [_in_world(instance, camera, threads) for instance in instances]
    if parts:
        position, radius, density, rgb = (
            np.concatenate(arrays) for arrays in zip(*parts, strict=True)
        )
    else:
        position, rgb = np.zeros((2, 0, 3), np.float32)
        radius, density = np.zeros((2, 0), np.float32)
    out = core.forward(position, radius, density, rgb, camera, settings, threads=threads)
    return Rendered(out["rgba"], out["surface"])


def _in_world(instance: Instance, camera: Camera, threads: int) -> tuple[np.ndarray, ...]:
    splats = instance.splats
    matrix = np.asarray(instance.matrix, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or (matrix[3] != [0, 0, 0, 1]).any():
        raise CoreError(
            "an instance's matrix is not a finite affine 4 x 4 matrix",
            hint="Expected (0, 0, 0, 1) in its last row",
        )
    linear, shift = matrix[:3, :3], matrix[:3, 3]
    scale = float(np.linalg.svd(linear, compute_uv=False)[0])
    # A flattened object has no inverse; its colours then come from the nearest sensible direction.
    inverse = np.linalg.pinv(linear)
    if camera.orthographic:
        eye = inverse @ camera.forward
        eye /= max(np.linalg.norm(eye), 1e-12)
    else:
        eye = inverse @ (camera.centre - shift)
    rgb = core.evaluate_sh(
        splats.position, splats.sh, eye, orthographic=camera.orthographic, threads=threads
    )
    with np.errstate(invalid="ignore", over="ignore"):  # such points are not drawn
        position = (splats.position @ linear.T + shift).astype(np.float32)
    return (
        position,
        splats.radius * np.float32(scale),
        splats.density * np.float32(instance.opacity),
        rgb,
    )
