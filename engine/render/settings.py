"""How a picture is peeled, and the picture."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np

from ..errors import CoreError

MAX_LAYERS = 64
#: Along each axis of a pixel in final pictures where nothing else is asked for.
DEFAULT_SAMPLES = 2


@dataclass(frozen=True)
class PeelSettings:
    """layers: K, at most so many points per pixel (4K4D displays 12). min_radius_px: smaller points
    are drawn this large and fainter. min_transmittance: a pixel is finished when less light than
    this passes. Raises CoreError for values out of range."""

    layers: int = 12
    min_radius_px: float = 0.75
    min_transmittance: float = 1 / 255

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "layers", operator.index(self.layers))
        except TypeError:
            raise CoreError(f"{self.layers!r} layers", hint="Use a whole number") from None
        if not 1 <= self.layers <= MAX_LAYERS:
            raise CoreError(f"{self.layers} layers", hint=f"Use 1 to {MAX_LAYERS}")
        if not (math.isfinite(self.min_radius_px) and self.min_radius_px > 0):
            raise CoreError(f"a smallest radius of {self.min_radius_px} px", hint="Use 0.75")
        if not 0 <= self.min_transmittance <= 1:
            raise CoreError(f"a least transmittance of {self.min_transmittance}", hint="Use 1/255")


@dataclass(frozen=True, eq=False)
class Rendered:
    """One picture; row 0 is the top.

    rgba: (H, W, 4) float32, premultiplied, in the clip's display-referred sRGB.
    depth: (H, W) float32, camera-space z of the first surface at which the accumulated alpha
        reaches 0.5, +inf where it never does.
    ids: (H, W) int32, id of the clip or mesh of that surface, -1 where there is none; None unless
        asked for.
    backend: what drew it, as "cpu" or "cuda".
    """

    rgba: np.ndarray
    depth: np.ndarray
    ids: np.ndarray | None = None
    backend: str = ""
