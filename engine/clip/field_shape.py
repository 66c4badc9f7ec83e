"""The sizes of a K-Planes field, as fragments and bases announce them in their headers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..render.splats import SH_COUNTS
from .fields import Fields
from .fragment import MAX_FIELD_BYTES
from .plane_field import PlaneField

MAX_PLANE_SIZE = 1 << 14
MAX_CHANNELS = 256
MAX_LEVELS = 8


def shape_header(field: PlaneField) -> dict[str, object]:
    """What `FieldShape` reads."""
    return {
        "bounds": field.bounds.tolist(),
        "spacing": field.spacing,
        "start": list(field.start),
        "first": field.first,
        "planes": [[list(plane.shape[:2]) for plane in planes] for planes in field.levels],
        "channels": field.levels[0][0].shape[2],
        "heads": [len(field.layers[1]), len(field.layers[3])],
    }


class FieldShape:
    """The checked sizes of a field, from a fragment's or a base's header.

    sizes: per level six (H, W). channels: of every plane. hidden, outputs: of the heads.
    """

    def __init__(self, header: Fields) -> None:
        """Raises ClipError for anything that is not a field of sensible size."""
        self.bounds = header.array("bounds", (2, 3))
        if not (self.bounds[0] < self.bounds[1]).all():
            raise header.fail("bounds", "lowest before highest")
        self.spacing = header.number("spacing", 1e-30, 1e30)
        self.start = tuple(header.array("start", (2,)).tolist())
        self.first = header.integer("first", 0, MAX_PLANE_SIZE)
        self.channels = header.integer("channels", 1, MAX_CHANNELS)
        levels = header.values.get("planes")
        if not isinstance(levels, list) or not 1 <= len(levels) <= MAX_LEVELS:
            raise header.fail("planes", f"a list of 1 to {MAX_LEVELS} levels")
        self.sizes = [
            Fields({"planes": level}, header.where).array("planes", (6, 2)) for level in levels
        ]
        for sizes in self.sizes:
            if (sizes != np.rint(sizes)).any() or sizes.min() < 2 or sizes.max() > MAX_PLANE_SIZE:
                raise header.fail("planes", f"of 2 to {MAX_PLANE_SIZE} texels a side")
        self.sizes = [[(int(h), int(w)) for h, w in sizes] for sizes in self.sizes]
        self.hidden, self.outputs = header.integers("heads", 2, 1, 1 << 12)
        if self.outputs - 2 not in [3 * count for count in SH_COUNTS]:
            raise header.fail("heads", "radius, density and SH")
        if 4 * max(self.plane_values, self.head_values) > MAX_FIELD_BYTES:
            raise header.fail("planes", "of a size that this program opens")

    @property
    def texels(self) -> int:
        """Texels of all planes."""
        return sum(h * w for sizes in self.sizes for h, w in sizes)

    @property
    def group_sizes(self) -> list[list[tuple[int, int]]]:
        """(H, W) of the space planes of a level, then of its time planes, level by level."""
        return [sizes[kind::2] for sizes in self.sizes for kind in (0, 1)]

    def in_order(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """Values (T, C) of the groups of `group_sizes` in the order that `field` takes, (T C,)."""
        parts = []
        for level, sizes in enumerate(self.sizes):
            at = [0, 0]
            for plane, (h, w) in enumerate(sizes):
                kind = plane % 2
                parts.append(groups[2 * level + kind][at[kind] : at[kind] + h * w].ravel())
                at[kind] += h * w
        return np.concatenate(parts)

    @property
    def plane_values(self) -> int:
        return self.texels * self.channels

    @property
    def head_shapes(self) -> tuple[tuple[int, ...], ...]:
        features = self.channels * len(self.sizes)
        return (self.hidden, features), (self.hidden,), (self.outputs, self.hidden), (self.outputs,)

    @property
    def head_values(self) -> int:
        return sum(math.prod(shape) for shape in self.head_shapes)

    def field(self, planes: np.ndarray, heads: np.ndarray) -> PlaneField:
        """planes: (plane_values,) float32. heads: (head_values,) float32."""
        levels, at = [], 0
        for sizes in self.sizes:
            level = []
            for h, w in sizes:
                count = h * w * self.channels
                level.append(planes[at : at + count].reshape(h, w, self.channels))
                at += count
            levels.append(level)
        layers, at = [], 0
        for shape in self.head_shapes:
            layers.append(heads[at : at + math.prod(shape)].reshape(shape))
            at += math.prod(shape)
        return PlaneField(self.bounds, self.spacing, levels, self.start, tuple(layers), self.first)
