"""What points have beside a field, as whole numbers, and what these take in a clip."""

from __future__ import annotations

import numpy as np
import torch

from ..clip.lattice import rounded_step
from ..model.dictionary_field import Interpolate, laplace_bits, sparse_matrix
from ..model.rounding import rounded
from .residual_settings import ResidualSettings

#: Points before one in Morton order that predict its colour, as in the splat core's point codec.
_WINDOW = 16
#: The points' own numbers stay inside this.
MAX_CODE = 1 << 12


class OwnValues(torch.nn.Module):
    """The points' own colours and radii as whole numbers: what the field lacks of them.

    cells: (N, 3) of the points, in Morton order. color: (N, 3) coefficients to start from. radius:
    (N,) logarithms of factors.
    """

    def __init__(
        self,
        cells: np.ndarray,
        color: torch.Tensor,
        radius: torch.Tensor,
        settings: ResidualSettings,
    ):
        super().__init__()
        self.color_step, self.radius_step = settings.color_step, rounded_step(settings.radius)
        self.colors = torch.nn.Parameter(color / self.color_step)
        self.radii = torch.nn.Parameter(radius / self.radius_step)
        self.log_scales = torch.nn.Parameter(torch.ones(4))
        self._prediction = _Prediction(cells)

    def forward(self, quantised: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Colours (N, 3) and factors of the radii (N,)."""
        colors, radii = self.colors, self.radii
        if quantised:
            colors, radii = rounded(colors, MAX_CODE), rounded(radii, MAX_CODE)
        return self.color_step * colors, torch.exp(self.radius_step * radii)

    def bits(self) -> torch.Tensor:
        """What the point codec takes for them, nearly: it predicts alike and learns as it goes."""
        codes = rounded(self.colors, MAX_CODE)
        error = codes - self._prediction(codes)
        green = error[:, 1]
        radii = rounded(self.radii, MAX_CODE)
        # The codec takes green's difference off red's and blue's.
        errors = torch.stack([error[:, 0] - green, green, error[:, 2] - green, radii], dim=1)
        return laplace_bits(errors, self.log_scales).sum()

    @torch.no_grad()
    def integers(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the colours (N, 3) and of the radii (N,), int32."""
        return tuple(
            codes.round().clamp(-MAX_CODE, MAX_CODE).cpu().numpy().astype(np.int32)
            for codes in (self.colors, self.radii)
        )


class _Prediction:
    """The mean of near points before each, (N, 3) -> (N, 3)."""

    def __init__(self, cells: np.ndarray):
        count = len(cells)
        cells = cells.astype(np.float64)
        point, before, weight = [], [], []
        for back in range(1, min(_WINDOW, count - 1) + 1):
            distance = ((cells[back:] - cells[:-back]) ** 2).sum(axis=1)
            point.append(np.arange(back, count))
            before.append(np.arange(count - back))
            weight.append(1 / (1 + distance) ** 2)
        if not point:
            point = before = weight = [np.zeros(0, dtype=np.int64)]
        point, before, weight = (np.concatenate(parts) for parts in (point, before, weight))
        total = np.bincount(point, weight, minlength=count)
        weight = weight / np.maximum(total[point], 1e-300)
        device = torch.device("cpu")
        self.matrix = sparse_matrix(point, before, weight, (count, count), device)
        self.transpose = sparse_matrix(before, point, weight, (count, count), device)

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        return Interpolate.apply(codes, self.matrix, self.transpose)
