"""K-Planes: a feature for every point of space and time from six planes.

Source: K-Planes (Fridovich-Keil et al. 2023), combined as in compact volumetric video with dynamic
codebooks (f = f_xy f_zt + f_xz f_yt + f_yz f_xt), because that codec works on these planes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..clip.plane_field import PLANE_PAIRS, SHADING
from ..render.splats import SH_C0
from .points import PointTensors, bounded_radius, logit, raw_radius


class KPlanes(torch.nn.Module):
    """Six bilinear feature planes per spatial resolution.

    bounds: (2, 3) world box that maps to [-1, 1]. time_steps: frames of the fragment.
    resolutions: texels along the box's longest side, one level each. channels: per level.
    """

    def __init__(
        self, bounds: np.ndarray, time_steps: int, resolutions: tuple[int, ...], channels: int
    ):
        super().__init__()
        bounds = np.asarray(bounds, dtype=np.float32)
        extent = np.maximum(bounds[1] - bounds[0], 1e-12)
        self.register_buffer("low", torch.from_numpy(bounds[0]))
        self.register_buffer("extent", torch.from_numpy(extent))
        self.resolutions, self.channels = tuple(resolutions), channels
        self.feature_count = channels * len(resolutions)
        self.levels = torch.nn.ModuleList()
        for resolution in resolutions:
            size = [max(2, math.ceil(resolution * side / extent.max())) for side in extent]
            size.append(max(2, time_steps))
            planes = torch.nn.ParameterList()
            for space, time in PLANE_PAIRS:
                # Source: K-Planes, init: space U(0.1, 0.5), time planes 1 (no motion to begin with)
                space_plane = torch.empty(1, channels, size[space[1]], size[space[0]])
                planes.append(torch.nn.Parameter(space_plane.uniform_(0.1, 0.5)))
                planes.append(torch.nn.Parameter(torch.ones(1, channels, size[3], size[time[0]])))
            self.levels.append(planes)

    def forward(self, position: torch.Tensor, time: float) -> torch.Tensor:
        """position (N, 3) world, time in [0, 1] -> features (N, C)."""
        unit = (position - self.low) / self.extent * 2 - 1
        coordinates = torch.cat([unit, torch.full_like(unit[:, :1], 2 * time - 1)], dim=1)
        grids = [
            (coordinates[None, None, :, list(space)], coordinates[None, None, :, list(plane_time)])
            for space, plane_time in PLANE_PAIRS
        ]
        features = []
        for planes in self.levels:
            total = 0
            for pair, (space_grid, time_grid) in enumerate(grids):
                sampled = [
                    torch.nn.functional.grid_sample(
                        plane, grid, align_corners=True, padding_mode="border"
                    )[0, :, 0]
                    for plane, grid in (
                        (planes[2 * pair], space_grid),
                        (planes[2 * pair + 1], time_grid),
                    )
                ]
                total = total + sampled[0] * sampled[1]
            features.append(total)
        return torch.cat(features).T


def field_bounds(positions: Sequence[np.ndarray], spacing: float) -> np.ndarray:
    """The box (2, 3) of a field for points at `positions`, (N, 3) each, which may move a little."""
    everything = np.concatenate(positions)
    margin = 3 * spacing
    return np.stack([everything.min(axis=0) - margin, everything.max(axis=0) + margin])


class FieldPoints(torch.nn.Module):
    """The points of a fragment: positions and a colour per point, the rest from a field.

    positions, colors: one (N_f, 3) array per frame. The per-point colour stays beside the field,
    which is too coarse to hold texture by itself.
    """

    def __init__(
        self,
        positions: list[np.ndarray],
        colors: list[np.ndarray],
        spacing: float,
        bounds: np.ndarray,
        *,
        sh_degree: int,
        radius: float,
        density: float,
        resolutions: tuple[int, ...] = (32, 64),
        channels: int = 16,
        hidden: int = 64,
    ):
        super().__init__()
        self.spacing = float(spacing)
        self.sh_count = (sh_degree + 1) ** 2
        self.time_steps = len(positions)
        self.anchors = torch.nn.ParameterList(
            torch.nn.Parameter(torch.from_numpy(np.array(p, np.float32)), requires_grad=False)
            for p in positions
        )
        self.offsets = torch.nn.ParameterList(
            torch.nn.Parameter(torch.zeros(len(p), 3)) for p in positions
        )
        self.colors = torch.nn.ParameterList(
            torch.nn.Parameter(torch.from_numpy(np.array(c, np.float32) / SH_C0)) for c in colors
        )
        self.field = KPlanes(bounds, self.time_steps, resolutions, channels)
        outputs = 2 + 3 * self.sh_count
        self.heads = torch.nn.Sequential(
            torch.nn.Linear(self.field.feature_count, hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, outputs),
        )
        # Start exactly at the given radius, density and colour: the field adds to them.
        torch.nn.init.normal_(self.heads[2].weight, std=1e-2)
        torch.nn.init.zeros_(self.heads[2].bias)
        self.register_buffer("start", torch.tensor([float(raw_radius(radius)), logit(density)]))

    @property
    def layers(self) -> list[torch.nn.Parameter]:
        """Weights and biases of the heads."""
        first, second = self.heads[0], self.heads[2]
        return [first.weight, first.bias, second.weight, second.bias]

    @property
    def shape(self) -> dict:
        """What, beside the tensors, it takes to make a model of the same shape."""
        return {
            "points": [len(offset) for offset in self.offsets],
            "spacing": self.spacing,
            "sh_degree": math.isqrt(self.sh_count) - 1,
            "resolutions": list(self.field.resolutions),
            "channels": self.field.channels,
            "hidden": self.heads[0].out_features,
            "bounds": torch.stack([self.field.low, self.field.low + self.field.extent]).tolist(),
        }

    @classmethod
    def of_shape(cls, shape: dict) -> FieldPoints:
        """A model of this shape, with arbitrary parameters. Raises KeyError, TypeError and
        ValueError for what is none."""
        nothing = [np.zeros((count, 3), np.float32) for count in shape["points"]]
        return cls(
            nothing,
            nothing,
            shape["spacing"],
            np.array(shape["bounds"]),
            sh_degree=shape["sh_degree"],
            radius=0.5 * shape["spacing"],
            density=0.5,
            resolutions=tuple(shape["resolutions"]),
            channels=shape["channels"],
            hidden=shape["hidden"],
        )

    def forward(self, step: int) -> PointTensors:
        """The points of the fragment's frame number `step`."""
        position = self.anchors[step] + self.offsets[step] * self.spacing
        time = step / max(1, self.time_steps - 1)
        output = self.heads(self.field(position, time))
        sh = output[:, 2:].view(-1, self.sh_count, 3)
        sh = SHADING * torch.tanh(sh)
        sh = torch.cat([sh[:, :1] + self.colors[step][:, None], sh[:, 1:]], dim=1)
        return PointTensors(
            position,
            bounded_radius(output[:, 0] + self.start[0], self.spacing),
            torch.sigmoid(output[:, 1] + self.start[1]),
            sh,
        )
