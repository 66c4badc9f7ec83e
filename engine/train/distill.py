"""A field for points that were trained one by one: it learns to say what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..model.kplanes import FieldPoints, field_bounds
from ..render.splats import SH_C0, Splats
from .descent import Descent
from .settings import TrainSettings

#: The planes' and the heads' rates at the start; they fall to a tenth.
_DECAY = 0.1


@dataclass(frozen=True)
class Distilled:
    """model: whose frames are the given ones. errors: what it does not reproduce, as root of the
    mean square over points, by importance: radius (of its logarithm), density, shading (SH
    coefficients above the constant one, which each point has beside the field)."""

    model: FieldPoints
    errors: dict[str, float]


def distill(
    frames: Sequence[Splats],
    weights: Sequence[np.ndarray],
    spacing: float,
    settings: TrainSettings,
    *,
    steps: int = 400,
) -> Distilled:
    """Fit a field to frames of explicit points. weights: (N,) importance of every frame's points.
    spacing: of the points, world units."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    positions = [splats.position for splats in frames]
    model = FieldPoints(
        positions,
        [splats.sh[:, 0] * SH_C0 for splats in frames],
        spacing,
        field_bounds(positions, spacing),
        sh_degree=max(splats.sh_degree for splats in frames),
        radius=float(np.median(np.concatenate([s.radius for s in frames]))) / spacing,
        density=float(np.clip(np.median(np.concatenate([s.density for s in frames])), 0.05, 0.95)),
    )
    optimizer = torch.optim.Adam(
        [
            {"params": model.field.parameters(), "lr": settings.field_rate},
            {"params": model.heads.parameters(), "lr": settings.head_rate},
        ]
    )
    descent = Descent(optimizer, _DECAY)
    targets = [_Target.of(*pair) for pair in zip(frames, weights, strict=True)]
    random = np.random.default_rng(settings.seed)
    order = [i for _ in range(steps // len(frames) + 1) for i in random.permutation(len(frames))]
    for number, step in enumerate(order[:steps]):
        descent.step(sum(targets[step].errors(model, step)), number / steps)
    with torch.no_grad():
        rows = [torch.stack(own.errors(model, step)) for step, own in enumerate(targets)]
    means = torch.stack(rows).mean(dim=0).sqrt().tolist()
    return Distilled(model, dict(zip(("radius", "density", "shading"), means[:3], strict=True)))


@dataclass(frozen=True, eq=False)
class _Target:
    weight: torch.Tensor
    radius: torch.Tensor
    density: torch.Tensor
    sh: torch.Tensor

    @classmethod
    def of(cls, splats: Splats, weight: np.ndarray) -> _Target:
        # What no camera sees counts a little: the field shall not invent anything there.
        weight = weight / max(float(weight.mean()), 1e-12) + 0.01
        arrays = (weight / weight.sum(), np.log(splats.radius), splats.density, splats.sh)
        return cls(*(torch.from_numpy(np.array(array, dtype=np.float32)) for array in arrays))

    def errors(self, model: FieldPoints, step: int) -> list[torch.Tensor]:
        """Mean squares of what differs: radius, density, shading, and the constant coefficient,
        which is the points' own."""
        points = model(step)
        bands = self.sh.shape[1]
        differences = (
            (points.radius.log() - self.radius) ** 2,
            (points.density - self.density) ** 2,
            ((points.sh[:, 1:bands] - self.sh[:, 1:]) ** 2).sum(dim=(1, 2)),
            ((points.sh[:, 0] - self.sh[:, 0]) ** 2).sum(dim=1),
        )
        return [(self.weight * own).sum() for own in differences]
