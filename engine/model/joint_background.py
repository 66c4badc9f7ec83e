"""The static background as the frames see it: behind the points of each, trained with all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..render.splats import Splats
from .points import PointTensors

#: Densities are learned as logits, which have none for 0 and 1.
_DENSITY_MARGIN = 1e-3


class JointBackground(torch.nn.Module):
    """Static points whose colours and densities are learned; the frames' points stay as they are.

    What clean plates could not tell is learned here: what a subject has hidden from all cameras but
    a few, the shadow that it always throws, and how its rims mix with what is behind them. Places
    and radii stay, too: points that move here do so to please the training views only.

    background: the static points. frame: gives the points of a time step.
    spacing: of the frames' points, world units.
    """

    def __init__(self, background: Splats, frame: Callable[[int], Splats], spacing: float):
        super().__init__()
        self.spacing = float(spacing)
        self._frame = frame
        self._fixed = background
        self.register_buffer("position", torch.from_numpy(np.array(background.position)))
        self.register_buffer("radius", torch.from_numpy(np.array(background.radius)))
        density = np.clip(background.density, _DENSITY_MARGIN, 1 - _DENSITY_MARGIN)
        self.density_raw = torch.nn.Parameter(torch.from_numpy(np.log(density / (1 - density))))
        self.color = torch.nn.Parameter(torch.from_numpy(np.array(background.sh[:, :1])))
        self.register_buffer("directional", torch.from_numpy(np.array(background.sh[:, 1:])))

    def forward(self, step: int) -> PointTensors:
        """The points of time step `step` before the background's."""
        splats = self._frame(step)
        arrays = (splats.position, splats.radius, splats.density, splats.sh)
        own = [torch.from_numpy(np.array(array)).to(self.position.device) for array in arrays]
        sh = torch.cat([self.color, self.directional], dim=1)
        count = max(sh.shape[1], own[3].shape[1])
        return PointTensors(
            torch.cat([own[0], self.position]),
            torch.cat([own[1], self.radius]),
            torch.cat([own[2], torch.sigmoid(self.density_raw)]),
            torch.cat([_widened(own[3], count), _widened(sh, count)]),
        )

    @torch.no_grad()
    def background(self) -> Splats:
        """The static points as they are now."""
        sh = torch.cat([self.color, self.directional], dim=1)
        density = torch.sigmoid(self.density_raw).cpu().numpy()
        return Splats(self._fixed.position, self._fixed.radius, density, sh.cpu().numpy())


def _widened(sh: torch.Tensor, count: int) -> torch.Tensor:
    """Harmonics (N, B, 3) as (N, count, 3), the missing ones 0."""
    return torch.nn.functional.pad(sh, (0, 0, 0, count - sh.shape[1]))
