"""Explicit points: every attribute is a learnable number of the point itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ..geometry.filters import nearest_neighbours
from ..render.splats import SH_C0, SH_COUNTS, Splats

#: A point's radius stays inside this multiple of the point spacing.
RADIUS_LIMITS = (0.25, 4.0)
#: Neighbours that a point is compared with by `ExplicitPoints.roughness`.
_NEIGHBOURS = 4


class PointTensors(NamedTuple):
    """What the peel takes: position (N, 3), radius (N,), density (N,), sh (N, B, 3), float32."""

    position: torch.Tensor
    radius: torch.Tensor
    density: torch.Tensor
    sh: torch.Tensor

    def to_splats(self) -> Splats:
        return Splats(*(tensor.detach().cpu().numpy() for tensor in self))


def logit(value: float) -> float:
    return float(np.log(value / (1.0 - value)))


def bounded_radius(raw: torch.Tensor, spacing: float) -> torch.Tensor:
    """4K4D's r = r_min + (r_max - r_min) sigmoid(a), with limits that scale with the scene."""
    low, high = (factor * spacing for factor in RADIUS_LIMITS)
    return low + (high - low) * torch.sigmoid(raw)


def raw_radius(radius_in_spacings: float | np.ndarray) -> np.ndarray:
    """The inverse of `bounded_radius` for radii given in point spacings, () or (N,) float32."""
    low, high = RADIUS_LIMITS
    part = np.clip((np.asarray(radius_in_spacings) - low) / (high - low), 1e-3, 1 - 1e-3)
    return np.float32(np.log(part / (1 - part)))


class ExplicitPoints(torch.nn.Module):
    """The points of one frame.

    position: (N, 3) start positions, world units. rgb: (N, 3) start colours in [0, 1].
    spacing: distance between neighbouring points, world units; it sets every length here.
    radius, density: start values, in spacings (or (N,) of them) and in [0, 1].
    """

    def __init__(
        self,
        position: np.ndarray,
        rgb: np.ndarray,
        spacing: float,
        *,
        sh_degree: int,
        radius: float | np.ndarray,
        density: float,
    ):
        super().__init__()
        n = len(position)
        sh = np.zeros((n, SH_COUNTS[sh_degree], 3), dtype=np.float32)
        sh[:, 0] = rgb / SH_C0
        self.spacing = float(spacing)
        self.neighbours: torch.Tensor | None = None
        # Positions are learned as offsets in spacings: Adam's step is then the same in any unit.
        self.register_buffer("anchor", torch.from_numpy(np.array(position, dtype=np.float32)))
        self.offset = torch.nn.Parameter(torch.zeros(n, 3))
        start = np.broadcast_to(raw_radius(radius), (n,))
        self.radius_raw = torch.nn.Parameter(torch.from_numpy(start.copy()))
        self.density_raw = torch.nn.Parameter(torch.full((n,), logit(density)))
        self.color = torch.nn.Parameter(torch.from_numpy(sh[:, :1].copy()))
        self.directional = torch.nn.Parameter(torch.from_numpy(sh[:, 1:].copy()))

    def forward(self, step: int = 0) -> PointTensors:
        """The points. `step` is the frame inside a fragment; here there is only one."""
        return PointTensors(
            self.anchor + self.offset * self.spacing,
            bounded_radius(self.radius_raw, self.spacing),
            torch.sigmoid(self.density_raw),
            torch.cat([self.color, self.directional], dim=1),
        )

    def roughness(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """How unlike its neighbours a point is, three means of squares, and how much it shimmers.

        Of the differences between the offsets (in spacings) and between the constant colours
        (coefficients) of neighbours at the start, and of the direction-dependent coefficients. What
        few cameras see of a point would otherwise be fitted to them alone.
        """
        if self.neighbours is None:
            anchor = self.anchor.cpu().numpy()
            _, index = nearest_neighbours(anchor, anchor, _NEIGHBOURS + 1)
            self.neighbours = torch.from_numpy(index[:, 1:].T.copy()).to(self.anchor.device)
        moved = torch.stack([self.offset[n] - self.offset for n in self.neighbours])
        colored = torch.stack([self.color[n] - self.color for n in self.neighbours])
        directional = self.directional.square()
        return (
            moved.square().mean(),
            colored.square().mean(),
            directional.mean() if directional.numel() else directional.sum(),
        )
