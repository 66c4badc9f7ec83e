"""Codes that learn from the footage: the base's for all frames, dynamic ones for each fragment.

Source: compact volumetric video with dynamic codebooks (method.md section 2, steps 2 and 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from ..clip.codebook import Base, Changes, rounded_heads
from ..model.coded_field import CodedField
from ..model.kplanes import FieldPoints
from .descent import Descent
from .picture_loss import picture_loss
from .run import Run

#: Adam's rates at the start, as fractions of the lattice's step, and for the heads; they fall to a
#: tenth.
_CODE_RATE, _HEAD_RATE = 0.1, 5e-4
_DECAY = 0.1


class Lesson(NamedTuple):
    """An image. step: of the field. frame: of the capture."""

    step: int
    frame: int
    view: int


def tune_base(run: Run, model: FieldPoints, labels: Sequence[int], base: Base, steps: int) -> Base:
    """The base with codes and heads that fit the images best. labels: frames of the field."""
    coded = CodedField(model, base).to(run.device)
    parameters = coded.learn_base()
    tensors = len(coded.entries) + len(coded.kept)
    step = base.groups[0].step
    rates = [_CODE_RATE * step] * tensors + [_HEAD_RATE] * (len(parameters) - tensors)
    _descend(run, coded, _images(run, labels), parameters, rates, steps, seed=labels[0])
    codes, layers = coded.shared_codes()
    groups = [
        replace(group, entries=entries, kept=kept)
        for group, (entries, kept) in zip(base.groups, codes, strict=True)
    ]
    return replace(base, groups=groups, heads=rounded_heads(layers))


def dynamic_codes(
    run: Run,
    model: FieldPoints,
    labels: Sequence[int],
    base: Base,
    first: int,
    frames: int,
    *,
    share: float,
    steps: int,
) -> Changes:
    """Codes of their own for those texels that the fragment's images want to change most.

    first, frames: steps of the field that are the fragment. share: of the texels that are not zero.
    """
    coded = CodedField(model, base).to(run.device)
    order = [e for e in _images(run, labels) if first <= e.step < first + frames]
    wanted = accumulated_gradient(run, coded, order)
    alive = sum(int((group.classes != 0).sum()) for group in base.groups)
    changed = strongest(wanted, base, round(share * alive))
    parameters = coded.learn_dynamic(changed)
    rates = [_CODE_RATE * group.step for group in base.groups]
    _descend(run, coded, order, parameters, rates, steps, seed=labels[first])
    return coded.changes(first)


def accumulated_gradient(run: Run, coded: CodedField, order: Sequence[Lesson]) -> list[np.ndarray]:
    """Sum over images of the length of the loss' gradient by every code, per group (T,)."""
    with torch.no_grad():
        codes = coded.codes()
    total = [torch.zeros(len(own), device=own.device) for own in codes]
    for lesson in order:
        leaves = [own.clone().requires_grad_(True) for own in codes]
        loss = _loss(run, coded, lesson, leaves)
        for own, gradient in zip(total, torch.autograd.grad(loss, leaves), strict=True):
            own += gradient.abs().sum(dim=1)
    return [own.cpu().numpy() for own in total]


def strongest(wanted: Sequence[np.ndarray], base: Base, count: int) -> list[np.ndarray]:
    """The `count` texels with the largest numbers, of those that are not zero: (T,) bool."""
    used = [group.classes != 0 for group in base.groups]
    masked = [np.where(use, own, -1.0) for own, use in zip(wanted, used, strict=True)]
    flat = np.concatenate(masked)
    count = min(count, int((flat > 0).sum()))
    chosen = np.zeros(len(flat), dtype=bool)
    if count:
        chosen[np.argsort(-flat, kind="stable")[:count]] = True
    return np.split(chosen, np.cumsum([len(own) for own in wanted])[:-1])


def _images(run: Run, labels: Sequence[int]) -> list[Lesson]:
    """Step of the field, frame and view of every image that teaches it."""
    frames = [run.capture.frames.index(label) for label in labels]
    return [
        Lesson(step, frame, view)
        for step, frame in enumerate(frames)
        for view in run.images.usable(frame, run.views)
    ]


def _descend(
    run: Run,
    coded: CodedField,
    every: Sequence[Lesson],
    parameters: Sequence[torch.nn.Parameter],
    rates: Sequence[float],
    steps: int,
    *,
    seed: int,
) -> None:
    if not every or not steps:
        return
    groups = [{"params": [p], "lr": r} for p, r in zip(parameters, rates, strict=True) if p.numel()]
    if not groups:
        return
    descent = Descent(torch.optim.Adam(groups, eps=1e-15), _DECAY)
    random = np.random.default_rng([run.plan.settings.seed, seed])
    order: list[int] = []
    while len(order) < steps:
        order.extend(random.permutation(len(every)))
    for number, chosen in enumerate(order[:steps]):
        descent.step(_loss(run, coded, every[chosen]), number / steps)
        run.watch.check()


def _loss(
    run: Run, coded: CodedField, lesson: Lesson, codes: list[torch.Tensor] | None = None
) -> torch.Tensor:
    image = run.images.get(lesson.frame, lesson.view)
    settings = run.plan.settings
    points = coded(lesson.step, codes)
    # The colours are not learned here, so what asks for sharp pictures has nothing to ask for.
    settings = replace(settings, dssim_weight=0.0, lpips_weight=0.0)
    return picture_loss(points, coded.spacing, image, lesson.view, run.color, settings)[0]
