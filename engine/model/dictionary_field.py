"""A field coefficient x basis that learns integers: what `clip.dictionary` evaluates, in torch.

Every number that a clip stores is rounded on its way to the picture, and the gradient passes the
rounding as if it were not there; the rate loss sees the number with uniform noise instead.
Source: rate-distortion optimised dynamic NeRF coding (arXiv 2402.01380, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..clip.dictionary import WEIGHT_STEP, FieldLayout, FieldState, Grid
from ..clip.residual import MAX_DIFFERENCE, MAX_WEIGHT
from .rounding import rounded


class FieldSample:
    """The interpolation of all grids of a layout at fixed positions (N, 3), and its transpose."""

    def __init__(self, layout: FieldLayout, position: np.ndarray, device: torch.device):
        grids = (layout.coefficient, *layout.basis)
        self.matrices = [_matrices(grid, position, layout.origin, device) for grid in grids]
        #: Corners of each grid that some point lies next to.
        self.touched = [m[1].crow_indices().diff() > 0 for m in self.matrices]
        self.count = len(position)


class DictionaryField(torch.nn.Module):
    """The field of one frame, learned as the difference from that of the frame before.

    before: the decoded integers of the last frame, None for the first. network: the integers of the
    fragment's network, which only its first frame learns, None there.
    """

    def __init__(
        self,
        layout: FieldLayout,
        before: FieldState | None = None,
        network: Sequence[np.ndarray] | None = None,
    ):
        super().__init__()
        self.layout = layout
        #: Whether pictures show rounded numbers; without, rounding comes after training.
        self.quantised = True
        self.differences = torch.nn.ParameterList()
        self.log_scales = torch.nn.ParameterList()
        states = [None] * (1 + len(layout.basis))
        if before is not None:
            states = [before.coefficient, *before.basis]
        for index, (grid, state) in enumerate(
            zip((layout.coefficient, *layout.basis), states, strict=True)
        ):
            shape = grid.corners, grid.channels
            base = torch.zeros(shape) if state is None else torch.from_numpy(np.float32(state))
            self.register_buffer(f"before_{index}", base)
            self.differences.append(torch.nn.Parameter(torch.zeros(shape)))
            start = 0.0 if before is None else -1.0
            self.log_scales.append(torch.nn.Parameter(torch.full((grid.channels,), start)))
        self.network = torch.nn.ParameterList()
        for index, shape in enumerate(layout.network_shapes):
            if network is not None:
                value = torch.from_numpy(np.float32(network[index]) * WEIGHT_STEP)
            elif len(shape) == 1:
                value = torch.zeros(shape)
            else:
                value = torch.randn(shape) * (0.5 if index == 0 else 0.3) * shape[0] ** -0.5
            self.network.append(torch.nn.Parameter(value, requires_grad=network is None))

    def sample(self, position: np.ndarray) -> FieldSample:
        """The field at positions (N, 3), for as often as it is asked there."""
        return FieldSample(self.layout, position, self.differences[0].device)

    @torch.no_grad()
    def start(self, sample: FieldSample) -> None:
        """Give the coefficients and the network of a first frame something to learn from. Corners
        that no point lies next to stay at zero, which costs nothing."""
        for difference, touched in zip(self.differences[1:], sample.touched[1:], strict=True):
            difference.uniform_(-2, 2).mul_(touched[:, None])

    def forward(self, sample: FieldSample) -> torch.Tensor:
        """Outputs of the network (N, outputs) at the sampled positions."""
        values = [
            Interpolate.apply(
                self._base(index) + self._rounded(difference, MAX_DIFFERENCE), *matrices
            )
            for index, (difference, matrices) in enumerate(
                zip(self.differences, sample.matrices, strict=True)
            )
        ]
        step_c, step_b = self.layout.steps
        features = (1 + step_c * values[0]) * (step_b * torch.cat(values[1:], dim=1))
        w1, b1, w2, b2 = (
            WEIGHT_STEP * self._rounded(weight / WEIGHT_STEP, MAX_WEIGHT) for weight in self.network
        )
        return torch.relu(features @ w1 + b1) @ w2 + b2

    def bits(self, sample: FieldSample, *, noise: bool = True) -> torch.Tensor:
        """What the differences at the corners that matter take under their learned densities: with
        noise in place of rounding, whose gradient says where a number should go, or rounded."""
        total = 0.0
        for difference, scale, touched in zip(
            self.differences, self.log_scales, sample.touched, strict=True
        ):
            value = difference[touched]
            if noise:
                value = value + torch.rand_like(value) - 0.5
            else:
                value = value.round().clamp(-MAX_DIFFERENCE, MAX_DIFFERENCE)
            total = total + laplace_bits(value, scale).sum()
        return total

    def residual_size(self) -> torch.Tensor:
        """|R|_1, the sum of the magnitudes of the basis' differences."""
        return sum(difference.abs().sum() for difference in list(self.differences)[1:])

    @torch.no_grad()
    def integers(self) -> list[np.ndarray]:
        """The rounded differences, of the coefficients first."""
        return [
            difference.round().clamp(-MAX_DIFFERENCE, MAX_DIFFERENCE).cpu().numpy().astype(np.int16)
            for difference in self.differences
        ]

    @torch.no_grad()
    def state(self) -> FieldState:
        """The frame's integers as a decoder has them: the last frame's and the differences."""
        values = [
            self._base(index).cpu().numpy().astype(np.int16) + difference
            for index, difference in enumerate(self.integers())
        ]
        return FieldState(values[0], tuple(values[1:]))

    @torch.no_grad()
    def network_integers(self) -> list[np.ndarray]:
        return [
            (weight / WEIGHT_STEP)
            .round()
            .clamp(-MAX_WEIGHT, MAX_WEIGHT)
            .cpu()
            .numpy()
            .astype(np.int8)
            for weight in self.network
        ]

    def _rounded(self, value: torch.Tensor, limit: float) -> torch.Tensor:
        return rounded(value, limit) if self.quantised else value

    def _base(self, index: int) -> torch.Tensor:
        return getattr(self, f"before_{index}")


def laplace_bits(value: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """-log2 of the mass that a Laplace density of scale exp(log_scale) has within 1/2 of a value.

    Source: arXiv 2402.01380, equation of the rate loss, CDF(y + 1/2) - CDF(y - 1/2), in the form
    that stays exact far away from zero.
    """
    inverse = torch.exp(-log_scale.clamp(-2.5, 6))
    size = value.abs()
    half = 0.5 * inverse
    # log sinh(h) = h + log(1 - exp(-2 h)) - log 2
    far = -size * inverse + half + torch.log(-torch.expm1(-2 * half)) - 0.6931471805599453
    near_size = size.clamp(max=0.5)
    near = torch.log1p(-torch.exp(-half) * torch.cosh(near_size * inverse) + 1e-9)
    return torch.where(size < 0.5, near, far) * -1.4426950408889634


class Interpolate(torch.autograd.Function):
    """A sparse matrix (N, corners) times values (corners, channels); the transpose is at hand."""

    @staticmethod
    def forward(context, values, matrix, transpose):
        context.transpose = transpose
        return matrix @ values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return context.transpose @ gradient.contiguous(), None, None


def _matrices(
    grid: Grid, position: np.ndarray, origin: Sequence[float], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    index, weight = grid.interpolation(position, origin)
    point = np.repeat(np.arange(len(position)), 8)
    shape = len(position), grid.corners
    return (
        sparse_matrix(point, index.ravel(), weight.ravel(), shape, device),
        sparse_matrix(index.ravel(), point, weight.ravel(), shape[::-1], device),
    )


def sparse_matrix(
    row: np.ndarray,
    column: np.ndarray,
    value: np.ndarray,
    shape: tuple[int, int],
    device: torch.device,
) -> torch.Tensor:
    """A CSR matrix of float32 from its entries."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls CSR a beta; only the product is used
        entries = torch.sparse_coo_tensor(
            torch.from_numpy(np.stack([row, column]).astype(np.int64)),
            torch.from_numpy(value.astype(np.float32)),
            shape,
            check_invariants=True,
        )
        return entries.coalesce().to_sparse_csr().to(device)
