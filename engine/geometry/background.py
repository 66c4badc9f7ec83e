"""The points of a static background, from one picture without the subject per camera.

Every view gets an inverse depth map (`plane_sweep`). What several views agree on is certain and
shared among all of them; between such places a surface is continued (`depth_completion`), then the
views' surfaces are pulled together (`view_surfaces`) and fused (`surface_fusion`). Directions that
no view has looked into are closed by a shell, because a hole is black and a wrong wall is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import ReconstructionError
from ..render.camera import Camera
from .plane_sweep import InverseDepth, SweepSettings, refine, scene_centre, sweep
from .points import Points
from .rig import in_frustum
from .shell import continued, fit_shell, gaps
from .surface_fusion import FusionSettings, fused
from .view_surfaces import ConsensusSettings, agreed, completed, resized, seen, without_hidden

#: Depths nearer than this are not projected, in distances to the scene's centre.
_NEAR = 0.01
#: A background of which the views agree about less than this share is plain: there is nothing to
#: see in it, and what does agree does so by chance.
_FEWEST_AGREED = 0.01


@dataclass(frozen=True)
class BackgroundSettings:
    """How a background is found.

    lens_space: no point is nearer to the front of a camera than this, in distances to the centre:
        walls in which cameras are mounted would cover them.
    free_space: points nearer than this share of the depth that any view has there are wrong.
    shell_margin: how far beyond what cameras see the shell goes, degrees.
    """

    sweep: SweepSettings = field(default_factory=SweepSettings)
    consensus: ConsensusSettings = field(default_factory=ConsensusSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)
    lens_space: float = 0.25
    free_space: float = 0.8
    shell_margin: float = 10.0


@dataclass(frozen=True, eq=False)
class Background:
    """points: of the background. color: (N, 3) float32 RGB in [0, 1].

    scale: (N,) float32, distance to the neighbours in spacings: 1, and less near cameras and where
    there is texture. guessed: (N,) bool, points that no view has seen, only closed. surfaces: of
    the views that were compared. lenses: of all cameras of the rig. centre: (3,) where they look.
    """

    points: Points
    color: np.ndarray
    scale: np.ndarray
    guessed: np.ndarray
    surfaces: tuple[InverseDepth, ...]
    lenses: tuple[Camera, ...]
    centre: np.ndarray

    def misplaced(
        self, position: np.ndarray, reach: np.ndarray | float, settings: BackgroundSettings
    ) -> np.ndarray:
        """Which places (N, 3) are where nothing can be, (N,) bool.

        That is before a lens, and far in front of what a view sees, where the subject moves.
        reach: (N,) how far a point there extends, world units.
        """
        wrong = _in_free_space(position, self.surfaces, settings.free_space)
        return wrong | _before_a_lens(
            position, self.lenses, self.centre, reach, settings.lens_space
        )


def static_background(
    cameras: Sequence[Camera],
    plates: Sequence[np.ndarray],
    known: Sequence[np.ndarray],
    *,
    bounds: np.ndarray | None = None,
    lenses: Sequence[Camera] = (),
    depths: Sequence[np.ndarray | None] | None = None,
    settings: BackgroundSettings | None = None,
) -> Background:
    """Points of what does not move, coloured.

    cameras: V perspective cameras. plates: V arrays (H, W, 3) uint8 RGB without the subject.
    known: V bool arrays (H, W), false where a plate was filled in. bounds: (2, 3) of the subject,
    says where the cameras look; otherwise it follows from them. lenses: further cameras of the rig
    whose view must not be covered by what they are mounted in; only their calibration is used.
    depths: V arrays (H, W) of camera-space z where a sensor has measured what does not move, else
    0; or None. They take the place of what the plates are compared for.
    Raises ReconstructionError where fewer than two views can be compared or nothing agrees.
    """
    settings = settings or BackgroundSettings()
    centre = scene_centre(cameras, bounds)
    depths = [None] * len(cameras) if depths is None else depths
    maps = sweep(cameras, plates, centre, settings.sweep, measured=depths)
    views = [view for view, found in enumerate(maps) if found is not None]
    if len(views) < 2:
        raise ReconstructionError(
            "no two views show the same background",
            hint="A background needs overlapping static cameras with clean plates",
        )
    hidden = [resized(known[view], maps[view]) < 0.5 for view in views]
    surfaces = without_hidden([maps[view] for view in views], hidden)
    guides = [_guide(plates[view], maps[view]) for view in views]
    near = _NEAR * float(np.median([np.linalg.norm(c.centre - centre) for c in cameras]))
    position, weight = agreed(surfaces, near, settings.consensus)
    if len(position) < _FEWEST_AGREED * sum(surface.inverse.size for surface in surfaces):
        raise ReconstructionError(
            "the views do not agree about enough places of the background",
            hint="Check the calibration (`peel4d info`); plain or moving backgrounds have no depth",
        )
    everyone = [cameras[view] for view in views]
    shell = fit_shell(position, weight, np.mean([c.centre for c in everyone], axis=0))
    surfaces = completed(surfaces, guides, position, weight, shell, near, settings.consensus)
    # Once more, finer, around what has been found. The surfaces keep their size: what they gain is
    # precision, and a completion of four times the pixels costs more than it brings.
    shown = [plates[view] for view in views]
    measured = [depths[view] for view in views]
    finer = refine(surfaces, shown, centre, settings.sweep, measured=measured)
    finer = without_hidden(finer, hidden)
    position, weight = agreed(finer, near, settings.consensus)
    if len(position):
        shell = fit_shell(position, weight, shell.middle)
        surfaces = [replace(s, step=f.step) for s, f in zip(surfaces, finer, strict=True)]
        surfaces = completed(surfaces, guides, position, weight, shell, near, settings.consensus)
    position, color, scale, spacing = fused(surfaces, shown, hidden, near, settings.fusion)
    found = Background(
        Points(position, spacing),
        color,
        scale,
        np.zeros(len(position), dtype=bool),
        tuple(surfaces),
        (*cameras, *lenses),
        centre,
    )
    kept = ~found.misplaced(position, 4 * spacing, settings)
    if not kept.any():
        raise ReconstructionError("nothing of the background is where cameras could see it")
    position, color, scale = position[kept], color[kept], scale[kept]
    closing, direction = gaps(shell, position, everyone, spacing, settings.shell_margin)
    kept = ~found.misplaced(closing, 4 * spacing, settings)
    closing, direction = closing[kept], direction[kept]
    closing_color = np.clip(continued(shell, position, color, direction), 0, 1)
    guessed = np.arange(len(position) + len(closing)) >= len(position)
    position = np.concatenate([position, closing]).astype(np.float32)
    color = np.concatenate([color, closing_color]).astype(np.float32)
    return replace(
        found,
        points=Points(position, spacing),
        color=color,
        scale=np.concatenate([scale, np.ones(len(closing))]).astype(np.float32),
        guessed=guessed,
    )


def _guide(plate, surface):
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(plate), cv2.COLOR_RGB2GRAY)
    return resized(grey, surface)


def _in_free_space(position, surfaces, share):
    """Which points (N, 3) lie so far in front of a view's surface that it looks through them."""
    wrong = np.zeros(len(position), dtype=bool)
    for surface in surfaces:
        which, pixel, inverse = seen(position, surface.camera, surface.camera.near)
        wrong[which] |= share * inverse > surface.inverse.ravel()[pixel]
    return wrong


def _before_a_lens(position, cameras, centre, reach, share):
    """Which points (N, 3) would cover a camera that is mounted among them.

    They are near and inside its frustum, widened by the reach of the disks that the points are.
    """
    wrong = np.zeros(len(position), dtype=bool)
    for camera in cameras:
        if camera.orthographic:
            continue
        z = camera.to_camera(position)[:, 2]
        near = (z > -reach) & (z < share * np.linalg.norm(camera.centre - centre))
        wrong |= near & in_frustum(camera, position, reach)
    return wrong
