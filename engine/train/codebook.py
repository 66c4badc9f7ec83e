"""From a trained field to codebooks: importance of texels, clusters, quantised codes.

Source: compact volumetric video with dynamic codebooks (method.md section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..clip.codebook import CODE_LEVELS, Base, Group, rounded_heads
from ..clip.field_shape import FieldShape, shape_header
from ..clip.fields import Fields
from ..clip.plane_field import PLANE_PAIRS, PlaneField, texel_weights
from ..clip.plane_labels import CLUSTERED, KEPT
from ..render.splats import Splats
from .vector_quantization import cluster


@dataclass(frozen=True)
class CodebookSettings:
    """How planes become codes.

    zero: texels that together hold this share of all importance get the zero code. keep: share of
    the others, the most important ones, that keep a code of their own. sharing: so many of the
    rest share a code, on average; most: entries of a codebook at most. step: of the codes'
    lattice, longer where a code would need more than 8 bits.
    """

    zero: float = 1e-5
    keep: float = 0.3
    sharing: float = 16.0
    most: int = 4096
    step: float = 1 / 8


def texel_importance(
    field: PlaneField, frames: Sequence[Splats], weights: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """I_c = sum over points p of w_cp T_p alpha_p, per group of planes (T,).

    frames: points of the field's steps. weights: rendering weight T alpha of each point (N,),
    summed over pixels (`render.importance`).
    """
    groups: list[np.ndarray] = []
    for planes in field.levels:
        level = [np.zeros(plane.shape[:2]) for plane in planes]
        for step, (splats, weight) in enumerate(zip(frames, weights, strict=True)):
            unit = field.unit(splats.position)
            for pair, ((a, b), (c, _)) in enumerate(PLANE_PAIRS):
                space, time = level[2 * pair], level[2 * pair + 1]
                for texel, part in texel_weights(space.shape, unit[:, a], unit[:, b]):
                    space += np.bincount(texel, weight * part, space.size).reshape(space.shape)
                row = time[min(field.first + step, len(time) - 1)]
                for texel, part in texel_weights((1, len(row)), unit[:, c], None):
                    row += np.bincount(texel, weight * part, len(row))
        for kind in (0, 1):
            groups.append(np.concatenate([plane.ravel() for plane in level[kind::2]]))
    return groups


def shape_of(field: PlaneField) -> FieldShape:
    return FieldShape(Fields(shape_header(field), "the trained field"))


def build_base(
    field: PlaneField, importance: Sequence[np.ndarray], settings: CodebookSettings
) -> Base:
    """Codebooks for a field's planes. importance: per group (T,), see `texel_importance`."""
    shape = shape_of(field)
    groups = []
    for number, weight in enumerate(importance):
        level, kind = divmod(number, 2)
        planes = field.levels[level][kind::2]
        values = np.concatenate([plane.reshape(-1, shape.channels) for plane in planes])
        groups.append(_group(values, weight, settings, seed=number))
    return Base(shape, groups, rounded_heads(field.layers))


def _group(
    values: np.ndarray, weight: np.ndarray, settings: CodebookSettings, *, seed: int
) -> Group:
    order = np.argsort(weight, kind="stable")
    held = np.cumsum(weight[order])
    nothing = int(np.searchsorted(held, settings.zero * held[-1], side="right"))
    alive = order[nothing:]
    classes = np.zeros(len(weight), dtype=np.uint8)
    classes[alive] = CLUSTERED
    kept = round(settings.keep * len(alive))
    if kept:
        classes[alive[-kept:]] = KEPT
    chosen = classes == CLUSTERED
    count = min(settings.most, max(1, round(chosen.sum() / settings.sharing)))
    entries, index = cluster(values[chosen], np.maximum(weight[chosen], 1e-30), count, seed=seed)
    own = values[classes == KEPT]
    step = settings.step
    largest = max((float(np.abs(v).max()) for v in (entries, own) if v.size), default=0.0)
    step = max(step, 2 * largest / (CODE_LEVELS - 1))
    # The entries that many texels share come first: their numbers' table is smaller.
    common = np.argsort(-np.bincount(index, minlength=len(entries)), kind="stable")
    place = np.empty_like(common)
    place[common] = np.arange(len(common))
    return Group(
        step, quantized(entries[common], step), quantized(own, step), classes, place[index]
    )


def quantized(values: np.ndarray, step: float) -> np.ndarray:
    return np.rint(values / step).astype(np.int16)
