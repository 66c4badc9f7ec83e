"""Explicit points: every attribute is a learnable number of the point itself."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch

from ..clip.fragment import RADIUS_LIMITS
from ..geometry.filters import nearest_neighbours
from ..render.splats import SH_C0, SH_COUNTS, Splats

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


class Roughness(NamedTuple):
    """Means of squares, scalars: of what differs between neighbouring points, and of what differs
    between directions. What few cameras see of a point would otherwise be fitted to them alone.

    position: in spacings; least for a surface without edges, of evenly spread points. offset: of
    the way from the start, in spacings; least where the surface keeps its shape. color: constant
    coefficients. shimmer: the direction-dependent coefficients themselves.
    """

    position: torch.Tensor
    offset: torch.Tensor
    color: torch.Tensor
    shimmer: torch.Tensor


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
        self._neighbours: tuple[torch.Tensor, int, torch.Tensor, float] | None = None
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

    def roughness(self) -> Roughness:
        """How unlike its neighbours at the start a point is, and how much it shimmers."""
        if self._neighbours is None:
            laplacian, pairs = _neighbour_laplacian(self.anchor)
            position = (self.anchor - self.anchor.mean(dim=0)) / self.spacing
            curvature = laplacian @ position
            self._neighbours = laplacian, pairs, curvature, float((position * curvature).sum())
        laplacian, pairs, curvature, angular = self._neighbours
        count = 3 * max(1, pairs)
        # One product for both, and no gathering: 6 ms instead of 30 for 95,000 points.
        both = torch.cat([self.offset, self.color[:, 0]], dim=1)
        squares = _QuadraticForm.apply(both, laplacian) / count
        offset = squares[:3].sum()
        directional = self.directional.square()
        return Roughness(
            # (a + o)^T L (a + o), of which only two parts change
            offset + (2 * (self.offset * curvature).sum() + angular) / count,
            offset,
            squares[3:].sum(),
            directional.mean() if directional.numel() else directional.sum(),
        )


def _neighbour_laplacian(anchor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The matrix L (N, N) with x^T L x = the sum over pairs of neighbours of (x_j - x_i)^2, as CSR,
    and the number of pairs. anchor: (N, 3)."""
    position = anchor.cpu().numpy()
    index = nearest_neighbours(position, position, _NEIGHBOURS + 1)[1][:, 1:]
    i = torch.arange(len(index)).repeat_interleave(index.shape[1])
    j = torch.from_numpy(index).reshape(-1)
    one = torch.ones(len(i))
    with warnings.catch_warnings():
        # torch calls CSR a beta, of which only the product is used, and unchecked entries unsafe.
        warnings.simplefilter("ignore")
        entries = torch.sparse_coo_tensor(
            torch.stack([torch.cat([i, j, i, j]), torch.cat([i, j, j, i])]),
            torch.cat([one, one, -one, -one]),
            (len(index), len(index)),
            check_invariants=True,
        )
        return entries.coalesce().to_sparse_csr().to(anchor.device), len(i)


class _QuadraticForm(torch.autograd.Function):
    """x^T A x of every column of x (N, C), for a symmetric sparse A (N, N)."""

    @staticmethod
    def forward(context, x, matrix):
        product = matrix @ x
        context.save_for_backward(product)
        return (x * product).sum(dim=0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        (product,) = context.saved_tensors
        return 2 * product * gradient, None
