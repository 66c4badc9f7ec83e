"""A field whose planes are made of quantised codes, to be tuned as a decoder will see them."""

from __future__ import annotations

import copy

import numpy as np
import torch

from ..clip.codebook import CODE_LEVELS, Base, Changes
from ..clip.plane_labels import CLUSTERED, KEPT
from .kplanes import FieldPoints
from .points import PointTensors
from .rounding import rounded

_MOST = (CODE_LEVELS - 1) // 2


class CodedField(torch.nn.Module):
    """The points of a field's frames, with the planes and heads of a base.

    model: where positions and colours come from; it stays as it is. Codes are rounded to the base's
    lattice on the way forward, and learn as if they were not.
    """

    def __init__(self, model: FieldPoints, base: Base):
        super().__init__()
        self.base = base
        self.model = copy.deepcopy(model)
        self.model.requires_grad_(False)
        with torch.no_grad():
            at = 0
            for layer in self.model.layers:
                own = base.heads[at : at + layer.numel()]
                layer.copy_(torch.from_numpy(own.copy()).view(layer.shape))
                at += layer.numel()
        self.entries, self.kept = torch.nn.ParameterList(), torch.nn.ParameterList()
        for number, group in enumerate(base.groups):
            self.entries.append(_values(group.entries, group.step))
            self.kept.append(_values(group.kept, group.step))
            row = np.zeros(len(group.classes), dtype=np.int64)
            row[group.classes == CLUSTERED] = 1 + group.index
            row[group.classes == KEPT] = 1 + len(group.entries) + np.arange(len(group.kept))
            self.register_buffer(f"row{number}", torch.from_numpy(row))
        self.dynamic = torch.nn.ParameterList()
        self._changed: list[torch.Tensor] = []

    @property
    def spacing(self) -> float:
        return self.model.spacing

    def codes(self) -> list[torch.Tensor]:
        """Values (T, C) of all texels of every group, rounded."""
        values = []
        for number, group in enumerate(self.base.groups):
            table = torch.cat([self.entries[number], self.kept[number]])
            table = torch.cat([torch.zeros_like(table[:1]), _rounded(table, group.step)])
            own = table[getattr(self, f"row{number}")]
            if self._changed:
                new = _rounded(self.dynamic[number], group.step)
                own = own.index_put((self._changed[number],), new)
            values.append(own)
        return values

    def planes(self, codes: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The planes of the model by the names of its parameters."""
        planes = {}
        at = [0] * len(codes)
        for level, sizes in enumerate(self.base.shape.sizes):
            for plane, (h, w) in enumerate(sizes):
                group = 2 * level + plane % 2
                own = codes[group][at[group] : at[group] + h * w]
                at[group] += h * w
                planes[f"field.levels.{level}.{plane}"] = own.view(h, w, -1).permute(2, 0, 1)[None]
        return planes

    def forward(self, step: int, codes: list[torch.Tensor] | None = None) -> PointTensors:
        """The points of a frame of the field."""
        planes = self.planes(self.codes() if codes is None else codes)
        return torch.func.functional_call(self.model, planes, (step,))

    def learn_base(self) -> list[torch.nn.Parameter]:
        """Parameters of the codes that all frames share, and of the heads."""
        parameters = [*self.entries, *self.kept, *self.model.layers]
        for parameter in parameters:
            parameter.requires_grad_(True)
        return parameters

    def learn_dynamic(self, changed: list[np.ndarray]) -> list[torch.nn.Parameter]:
        """Give texels codes of their own, and these alone to be learned. changed: per group (T,)
        bool. They begin with what the base has."""
        self.requires_grad_(False)
        with torch.no_grad():
            codes = self.codes()
        device = codes[0].device
        self._changed = [torch.from_numpy(np.flatnonzero(own)).to(device) for own in changed]
        self.dynamic = torch.nn.ParameterList(
            torch.nn.Parameter(own[texels].clone())
            for own, texels in zip(codes, self._changed, strict=True)
        )
        return list(self.dynamic)

    @torch.no_grad()
    def changes(self, first: int) -> Changes:
        """The dynamic codes. first: frame of the field that their fragment begins with."""
        changed, codes = [], []
        for number, group in enumerate(self.base.groups):
            flags = np.zeros(len(group.classes), dtype=bool)
            flags[self._changed[number].cpu().numpy()] = True
            own = _levels(self.dynamic[number], group.step)
            # What was not moved to another level need not be sent.
            moved = (own != group.codes()[flags]).any(axis=1)
            flags[np.flatnonzero(flags)[~moved]] = False
            changed.append(flags)
            codes.append(own[moved])
        return Changes(first, changed, codes)

    @torch.no_grad()
    def shared_codes(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[np.ndarray]]:
        """Entries and kept codes of every group as int16, and the heads' tensors."""
        groups = [
            (_levels(entries, group.step), _levels(kept, group.step))
            for entries, kept, group in zip(self.entries, self.kept, self.base.groups, strict=True)
        ]
        return groups, [layer.detach().cpu().numpy() for layer in self.model.layers]


def _values(codes: np.ndarray, step: float) -> torch.nn.Parameter:
    values = torch.from_numpy(codes.astype(np.float32) * np.float32(step))
    return torch.nn.Parameter(values, requires_grad=False)


def _rounded(values: torch.Tensor, step: float) -> torch.Tensor:
    """Rounded, with the gradient of the identity (straight through)."""
    return step * rounded(values / step, _MOST)


def _levels(values: torch.Tensor, step: float) -> np.ndarray:
    return torch.round(values / step).clamp(-_MOST, _MOST).cpu().numpy().astype(np.int16)
