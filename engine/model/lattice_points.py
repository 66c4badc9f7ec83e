"""Points whose attributes are what a coarse codec leaves of them, still learnable."""

from __future__ import annotations

import numpy as np
import torch

from ..clip.lattice import rounded_step
from ..clip.predictive import Steps
from ..geometry.filters import nearest_neighbours
from ..render.splats import Splats
from .points import PointTensors
from .rounding import rounded

#: Neighbours that stand for those that the codec predicts a point from.
_NEIGHBOURS = 6


class LatticePoints(torch.nn.Module):
    """Points of one frame on the lattices of the codec "predictive".

    splats: N >= 1 points. steps: distances of the lattices. cell: width of the positions' grid,
    world units; the points stay in their cells. spacing: of the points, world units. weight: of the
    stream's bits, as loss per bit and point.

    The numbers that are learned are codes before they are rounded. Gradients pass the rounding as
    if it were not there (straight-through, method.md section 3).
    """

    def __init__(
        self, splats: Splats, steps: Steps, cell: float, spacing: float, *, weight: float = 0.0
    ):
        super().__init__()
        self.spacing, self.weight = float(spacing), float(weight)
        cell = rounded_step(cell)
        position = np.rint(splats.position.astype(np.float64) / cell) * cell
        self.register_buffer("position", torch.from_numpy(position.astype(np.float32)))
        neighbours = nearest_neighbours(position, position, _NEIGHBOURS + 1)[1][:, 1:]
        self.register_buffer("neighbours", torch.from_numpy(neighbours.copy()))
        degree = splats.sh_degree
        self.radius_step = rounded_step(steps.radius)
        self.density_step = rounded_step(steps.density)
        bands = [rounded_step(steps.coefficient(band, degree)) for band in range(degree + 1)]
        self.color_step = bands[0]
        # (B - 1, 1), one for every function above the constant
        above = np.repeat(bands[1:], [2 * band + 1 for band in range(1, degree + 1)])
        self.register_buffer("shading_steps", torch.from_numpy(np.float32(above)[:, None]))

        def codes(values: np.ndarray, step: float) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.from_numpy(np.float32(values / step)))

        self.radius = codes(np.log(np.maximum(splats.radius, 1e-30)), self.radius_step)
        self.density = codes(splats.density - 0.5 * self.density_step, self.density_step)
        self.color = codes(splats.sh[:, :1], self.color_step)
        self.shading = codes(splats.sh[:, 1:], self.shading_steps.numpy())

    def forward(self, step: int = 0) -> PointTensors:
        """The points as the clip will have them. `step`: the frame; there is only one."""
        density = (rounded(self.density) + 0.5) * self.density_step
        shading = rounded(self.shading) * self.shading_steps
        return PointTensors(
            self.position,
            torch.exp(rounded(self.radius) * self.radius_step),
            density.clamp(0, 1),
            torch.cat([rounded(self.color) * self.color_step, shading], dim=1),
        )

    def bits(self) -> torch.Tensor:
        """About how many bits a point takes beside its position, scalar.

        log2(1 + |d|) for every number that is written, d: how far a code is from the mean of its
        neighbours, red and blue from green, the direction-dependent ones from zero. It is not the
        codec's count, but falls where that does.
        """
        color = self.color[:, 0]
        green = color[:, 1:2]
        alike = torch.cat(
            [green, color[:, 0:1] - green, color[:, 2:3] - green]
            + [self.radius[:, None], self.density[:, None]],
            dim=1,
        )
        surprise = (alike - alike[self.neighbours].mean(dim=1)).abs()
        total = torch.log2(1 + surprise).sum() + torch.log2(1 + self.shading.abs()).sum()
        return total / len(color)
