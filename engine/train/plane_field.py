"""From a trained field to the numbers that a clip stores."""

from __future__ import annotations

import numpy as np
import torch

from ..clip.plane_field import PlaneField
from ..model.kplanes import FieldPoints


@torch.no_grad()
def plane_field(model: FieldPoints) -> PlaneField:
    """The field of a model without its points, for `PlaneField.evaluate`."""
    low = model.field.low.double().cpu().numpy()
    extent = model.field.extent.double().cpu().numpy()
    levels = [
        [np.ascontiguousarray(plane[0].permute(1, 2, 0).cpu().numpy()) for plane in planes]
        for planes in model.field.levels
    ]
    return PlaneField(
        np.stack([low, low + extent]),
        model.spacing,
        levels,
        tuple(model.start.tolist()),
        tuple(layer.detach().cpu().numpy() for layer in model.layers),
    )
