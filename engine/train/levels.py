"""Coarse to fine: few, large points find where a frame's surface is, more and smaller ones what it
looks like.

A hull is fatter than its subject. Small points that start there have far to go, and meanwhile learn
to look right from the training cameras where they are: with points two pixels apart the dynamic
region of "basketball" loses 0.3 dB against points 3.4 pixels apart, and 0.6 dB where few cameras
look; with the surface of coarser points to start from it gains 0.3 dB, and twice the detail.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..geometry.filters import moved_inwards, nearest_neighbours, thinned
from ..geometry.points import Points
from ..model.points import ExplicitPoints
from ..render.splats import Splats
from .initialize import initial_points
from .run import Run
from .settings import TrainSettings
from .trainer import Job, train

#: Spacing of a level's points, in those of the next one.
_RATIO = 1.67
#: Of all steps: what the last level gets, if there are others.
_LAST_STEPS = 0.42
#: Of the learning rates, over a level that is not the last.
_COARSE_DECAY = 0.3
#: Of coarser points that a finer one takes its values from.
_PARENTS = 4
#: In coarse spacings: a point that is farther from all of these starts by itself.
_REACH = 2.0


@dataclass(frozen=True)
class Level:
    """spacing: of its points, in those of the last level. settings: its recipe, of its own steps.
    name: added to a job's key, empty for the last level."""

    spacing: float
    settings: TrainSettings
    name: str

    @property
    def work(self) -> float:
        """Roughly what it costs beside others."""
        samples = self.settings.samples
        return self.settings.steps * (1 + samples * samples) / self.spacing


def levels_of(settings: TrainSettings, points: str) -> list[Level]:
    """The levels of one frame whose points come from a "hull" or from "depth"; these are where they
    belong, and have one."""
    count = settings.levels if points == "hull" and settings.model == "explicit" else 1
    count = min(count, settings.steps)
    if count == 1:
        return [Level(1.0, settings, "")]
    each = max(1, round((1 - _LAST_STEPS) * settings.steps / (count - 1)))
    coarse = replace(settings, steps=each, samples=1, decay=_COARSE_DECAY)
    fine = replace(
        settings,
        steps=max(1, settings.steps - (count - 1) * each),
        samples=settings.fine_samples,
        position_rate=settings.fine_position_rate,
        position_roughness=settings.fine_position_roughness,
        color_roughness=settings.fine_color_roughness,
    )
    spacings = [_RATIO ** (count - 1 - number) for number in range(count - 1)]
    names = [f"-level-{number}" for number in range(count - 1)]
    levels = [Level(spacing, coarse, name) for spacing, name in zip(spacings, names, strict=True)]
    return [*levels, Level(1.0, fine, "")]


def starting_points(run: Run, label: int) -> tuple[Points, np.ndarray]:
    """Initial points of a frame and their colours, see `initial_points`; they have the run's
    spacing, or find one where it has none yet."""
    return initial_points(
        run.capture,
        run.reader,
        run.capture.frames.index(label),
        run.views,
        source=run.plan.points,
        spacing=run.spacing,
        pixels=run.plan.settings.pixels_of(run.plan.points),
        plates=run.plates,
    )


def explicit_points(
    points: Points, rgb: np.ndarray, settings: TrainSettings, *, inset: float
) -> ExplicitPoints:
    """The model that training starts from. rgb: (N, 3) in [0, 1]. inset: in spacings."""
    return ExplicitPoints(
        moved_inwards(points, inset) if inset else points.position,
        rgb,
        points.spacing,
        sh_degree=settings.sh_degree,
        radius=settings.radius,
        density=settings.density,
    )


@torch.no_grad()
def hand_down(
    coarse: ExplicitPoints, coarse_start: np.ndarray, fine: ExplicitPoints, start: np.ndarray
) -> None:
    """Let fine points have moved, and look, as the trained coarse ones around them do, in place.

    coarse_start, start: where both were found, (M, 3) and (N, 3). Points beyond the reach of all
    coarse ones stay as they are.
    """
    distance, parent = nearest_neighbours(coarse_start, start, _PARENTS)
    near = torch.from_numpy(np.flatnonzero(distance[:, 0] < _REACH * coarse.spacing))
    distance, parent = distance[near.numpy()], torch.from_numpy(parent[near.numpy()])
    weight = 1 / (distance / coarse.spacing + 0.1) ** 2
    weight = torch.from_numpy(np.float32(weight / weight.sum(axis=1, keepdims=True)))
    device = fine.offset.device
    near, parent, weight = (tensor.to(device) for tensor in (near, parent, weight))

    def around(values: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nk,nk...->n...", weight, values[parent])

    fine.offset[near] = around(coarse.offset) * (coarse.spacing / fine.spacing)
    fine.density_raw[near] = around(coarse.density_raw)
    fine.color[near] = around(coarse.color)
    fine.directional[near] = around(coarse.directional)


def train_levels(
    run: Run,
    label: int,
    points: Points,
    rgb: np.ndarray,
    *,
    settings: TrainSettings,
    seconds: float = math.inf,
    resumable: bool = True,
    on_part: Callable[[float, float], None] | None = None,
    on_preview: Callable[[Splats], None] | None = None,
) -> tuple[ExplicitPoints, float]:
    """Train the points of one frame from where they were found, and their PSNR in training, dB.

    points, rgb: of the last level, see `starting_points`. seconds: that all may take. resumable:
    with checkpoints in the run's folder, which stay until `forget_levels`. on_part(part, psnr): of
    the work that is done. Raises PeelError.
    """
    frame = run.capture.frames.index(label)
    usable = tuple(run.images.usable(frame, run.views))
    levels = levels_of(settings, run.plan.points)
    # A hull is too fat by so many pixels of the cameras, however fine its points are.
    inset = settings.inset_of(run.plan.points) * points.spacing
    deadline = time.monotonic() + seconds
    total = sum(level.work for level in levels)
    before = 0.0
    model = start = None
    for level in levels:
        found, colors = points, rgb
        if level.spacing > 1:
            found, colors = thinned(points, rgb, level.spacing * points.spacing)
        coarse, coarse_start = model, start
        model = explicit_points(found, colors, level.settings, inset=inset / found.spacing)
        model, start = model.to(run.device), found.position
        if coarse is not None:
            hand_down(coarse, coarse_start, model, start)
        job = Job(f"{label}{level.name}", (frame,), (usable,))
        share = level.work / (total * (1 - before))

        def on_step(step: int, steps: int, psnr: float, level=level, before=before) -> None:
            if on_part:
                on_part(before + level.work / total * step / steps, psnr)

        reached = train(
            model,
            run.color,
            job,
            run.images,
            level.settings,
            seconds=share * (deadline - time.monotonic()),
            checkpoint=run.folder.running(job.key) if resumable else None,
            keep=level is not levels[-1],
            on_step=on_step,
            watch=run.watch,
            on_preview=on_preview and (lambda _, model=model: on_preview(points_now(model, 0))),
        )
        before += level.work / total
    return model, reached


def forget_levels(run: Run, label: int) -> None:
    """Remove the checkpoints of a frame that is finished."""
    for level in levels_of(run.plan.settings, run.plan.points):
        run.folder.running(f"{label}{level.name}").unlink(missing_ok=True)


@torch.no_grad()
def points_now(model: torch.nn.Module, step: int) -> Splats:
    """The points of a model at a step in time, as they are drawn."""
    return model(step).to_splats()
