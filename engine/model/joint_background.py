"""The static background as the frames see it: behind the points of each, trained with all."""

from __future__ import annotations

from collections.abc import Sequence

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

    background: the static points. frames: the points of every time step. spacing: of these, world
    units.
    """

    def __init__(self, background: Splats, frames: Sequence[Splats], spacing: float):
        super().__init__()
        self.spacing = float(spacing)
        self._frames = frames
        # Points that nobody can see make all time steps equally long: arrays that change their size
        # with every step leave more holes in memory.
        self._count = max(map(len, frames), default=0)
        self._fixed = background
        self.register_buffer("position", torch.from_numpy(np.array(background.position)))
        self.register_buffer("radius", torch.from_numpy(np.array(background.radius)))
        density = np.clip(background.density, _DENSITY_MARGIN, 1 - _DENSITY_MARGIN)
        self.density_raw = torch.nn.Parameter(torch.from_numpy(np.log(density / (1 - density))))
        self.color = torch.nn.Parameter(torch.from_numpy(np.array(background.sh[:, :1])))
        self.register_buffer("directional", torch.from_numpy(np.array(background.sh[:, 1:])))

    def forward(self, step: int) -> PointTensors:
        """The points of time step `step`, as many as the largest has, before the background's."""
        splats = self._frames[step]
        arrays = (splats.position, splats.radius, splats.density, splats.sh)
        own = [_padded(array, self._count).to(self.position.device) for array in arrays]
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


def _padded(array: np.ndarray, count: int) -> torch.Tensor:
    """An array (N, ...) with zeros up to (count, ...)."""
    padded = np.zeros((count, *array.shape[1:]), dtype=np.float32)
    padded[: len(array)] = array
    return torch.from_numpy(padded)


def _widened(sh: torch.Tensor, count: int) -> torch.Tensor:
    """Harmonics (N, B, 3) as (N, count, 3), the missing ones 0."""
    return torch.nn.functional.pad(sh, (0, 0, 0, count - sh.shape[1]))
