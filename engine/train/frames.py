"""The frames of a reconstruction, in units that know nothing of each other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ..geometry.filters import moved_inwards
from ..geometry.points import Points
from ..model.kplanes import FieldPoints, field_bounds
from ..progress import Progress, ProgressCallback
from ..render.splats import Splats
from .checkpoint import save_field, save_splats
from .evaluate import held_out_pictures
from .levels import explicit_points, forget_levels, points_now, starting_points, train_levels
from .metrics import psnr
from .plan import FRAGMENT_FRAMES, Folder, Plan
from .run import Report, Run
from .trainer import Job, train

#: Labels of the frames that are trained together.
Unit = tuple[int, ...]
#: What of a unit's work is done when its optimisation is: its pictures are looked at after that.
_TRAINED = 0.98


def units_left(plan: Plan, folder: Folder) -> list[Unit]:
    """What is not in the folder yet: single frames, or with a field fragments of them."""
    size = FRAGMENT_FRAMES if plan.settings.model == "field" else 1
    units = [plan.frames[first : first + size] for first in range(0, len(plan.frames), size)]

    def complete(label: int) -> bool:
        return folder.frame(label).is_file() and folder.initial(label).is_file()

    return [unit for unit in units if not all(map(complete, unit))]


def train_in_turn(run: Run, units: Sequence[Unit], progress: ProgressCallback) -> None:
    """Train all units in this process, one after the other. Raises PeelError."""
    counted = FrameProgress(run.plan, units, progress)
    for number, unit in enumerate(units):
        run.watch.check()
        train_unit(
            run,
            unit,
            partial(counted, unit),
            seconds=seconds_for(run.deadline, len(units) - number, 1),
        )


def seconds_for(deadline: float, waiting: int, jobs: int) -> float:
    """How long the next of the waiting units may take when so many are trained at a time."""
    left = max(0.0, deadline - time.monotonic())
    return min(left, left * jobs / waiting)


class FrameProgress:
    """Turns what the units report into the stage "frames", which counts thousandths of frames."""

    def __init__(self, plan: Plan, units: Sequence[Unit], progress: ProgressCallback):
        self._progress = progress
        self._total = len(plan.frames)
        self._before = self._total - sum(map(len, units))
        self._parts: dict[Unit, float] = {}
        self._started = time.monotonic()

    def __call__(self, unit: Unit, part: float, metrics: dict[str, float]) -> None:
        self._parts[unit] = part
        done = sum(part * len(unit) for unit, part in self._parts.items())
        elapsed = time.monotonic() - self._started
        eta = elapsed * (self._total - self._before - done) / max(done, 1e-6)
        step = round((self._before + done) * 1000)
        self._progress(Progress("frames", step, self._total * 1000, eta, metrics))


def train_unit(run: Run, unit: Unit, report: Report, *, seconds: float) -> None:
    """Train the frames of a unit into the folder. seconds: that it may take, or infinity. Raises
    PeelError."""
    deadline = time.monotonic() + seconds
    if run.plan.settings.model == "field":
        _train_fragment(run, unit, report, deadline)
    else:
        (label,) = unit
        _train_frame(run, label, report, deadline)


def _start(run: Run, label: int) -> tuple[Points, np.ndarray]:
    """Initial points of a frame and their colours.

    What they look like before training, as they were found, is kept in the folder.
    """
    points, rgb = starting_points(run, label)
    untrained = explicit_points(points, rgb, replace(run.plan.settings, sh_degree=0), inset=0.0)
    splats = untrained().to_splats()
    save_splats(run.folder.initial(label), splats)
    if run.watch.preview_due():
        run.preview(label, splats)
    return points, rgb


def _train_frame(run: Run, label: int, report: Report, deadline: float) -> None:
    points, rgb = _start(run, label)
    model, reached = train_levels(
        run,
        label,
        points,
        rgb,
        settings=run.plan.settings,
        seconds=deadline - time.monotonic(),
        on_part=lambda part, psnr: report(_TRAINED * part, {"training_psnr": psnr}),
        on_preview=lambda splats: run.preview(label, splats),
    )
    _finish(run, label, points_now(model, 0), reached, 1.0, report)
    forget_levels(run, label)


def _train_fragment(run: Run, labels: Unit, report: Report, deadline: float) -> None:
    settings = run.plan.settings
    starts = [_start(run, label) for label in labels]
    inset = settings.inset_of(run.plan.points)
    torch.manual_seed(settings.seed)
    model = FieldPoints(
        [moved_inwards(points, inset) for points, _ in starts],
        [rgb for _, rgb in starts],
        run.spacing,
        field_bounds([points.position for points, _ in starts], run.spacing),
        sh_degree=settings.sh_degree,
        radius=settings.radius,
        density=settings.density,
    ).to(run.device)
    frames = tuple(run.capture.frames.index(label) for label in labels)
    usable = tuple(tuple(run.images.usable(frame, run.views)) for frame in frames)
    job = Job(f"fragment-{labels[0]}", frames, usable)
    reached = train(
        model,
        run.color,
        job,
        run.images,
        settings,
        seconds=deadline - time.monotonic(),
        checkpoint=run.folder.running(job.key),
        on_step=lambda step, total, psnr: report(_TRAINED * step / total, {"training_psnr": psnr}),
        watch=run.watch,
        on_preview=lambda step: run.preview(labels[step], points_now(model, step)),
    )
    save_field(run.folder.field(labels[0]), model, labels, psnr=reached)
    for step, label in enumerate(labels):
        _finish(run, label, points_now(model, step), reached, (step + 1) / len(labels), report)
    run.folder.running(job.key).unlink(missing_ok=True)


@torch.no_grad()
def _finish(
    run: Run, label: int, splats: Splats, training_psnr: float, part: float, report: Report
) -> None:
    """Keep a trained frame and report how the held-out views like it."""
    save_splats(run.folder.frame(label), splats, psnr=training_psnr)
    frame = run.capture.frames.index(label)
    metrics = {"training_psnr": training_psnr}
    values = [psnr(*shown[1:]) for shown in held_out_pictures(run, splats, frame, "mask")]
    if values:
        metrics["test_psnr"] = float(np.mean(values))
    report(_TRAINED + (1 - _TRAINED) * part, metrics)
