"""Background and frames together: once the frames are trained, the background learns from them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from .. import __name__ as engine_name
from ..capture.capture import Capture
from ..capture.images import ImageReader
from ..machine import release_memory
from ..model.joint_background import JointBackground
from ..progress import Progress, ProgressCallback
from .checkpoint import load_splats, load_tensors, save_splats
from .images import TrainingImage, without_outline
from .run import Run
from .trainer import Job, train

log = logging.getLogger(engine_name)

#: Frames that teach, spread over the clip; their points are held in memory.
_FRAMES = 32
#: Less time than this is not begun with.
_LEAST_SECONDS = 2.0
#: Seconds after which memory is given back: images that come and go between the arrays of a whole
#: picture leave holes, which grew by 10 MB a step.
_RELEASE_SECONDS = 1.0


class WholeImages:
    """Every image of a capture, whole, with nothing behind the points."""

    def __init__(self, capture: Capture, reader: ImageReader, device: torch.device):
        self._capture, self._reader, self._device = capture, reader, device

    def get(self, frame: int, view: int) -> TrainingImage:
        """One image. Raises CaptureError where there is none."""
        camera, rgb = self._capture.camera(frame, view), self._reader.image(frame, view)
        return without_outline(camera, rgb, self._reader.valid(frame, view)).to(self._device)


def joint_stage(run: Run, progress: ProgressCallback) -> None:
    """Train the background on, in whole images of the trained frames, into the folder and the run.

    Nothing happens without a background, where it was done before, and where there is no time left.
    Raises PeelError.
    """
    folder, capture, plan = run.folder, run.capture, run.plan
    settings = plan.settings.for_joint
    if run.background is None or settings.steps < 1:
        return
    if load_tensors(folder.background)[1].get("joint"):
        return
    if run.seconds(1.0) < _LEAST_SECONDS:
        log.info("no time is left to train the background with the frames")
        return
    count = min(_FRAMES, len(plan.frames))
    chosen = np.linspace(0, len(plan.frames) - 1, count).round().astype(int)
    labels = [plan.frames[number] for number in chosen]
    frames = tuple(capture.frames.index(label) for label in labels)
    each = max(1, round(settings.steps / count))
    views = _views(run, frames, each)
    if not any(views):
        return

    points = [load_splats(folder.frame(label)) for label in labels]
    model = JointBackground(run.background, points, run.spacing).to(run.device)
    job = Job("joint", frames, views)

    released = time.monotonic()

    def report(step: int, total: int, psnr: float) -> None:
        nonlocal released
        if time.monotonic() - released > _RELEASE_SECONDS:
            release_memory()
            released = time.monotonic()
        progress(Progress("joint", step, total, None, {"training_psnr": psnr}))

    psnr = train(
        model,
        run.color,
        job,
        WholeImages(capture, run.reader, run.device),
        replace(settings, steps=each),
        seconds=run.seconds(1.0),
        checkpoint=folder.running(job.key),
        on_step=report,
        watch=run.watch,
    )
    save_splats(folder.background, model.background(), psnr=psnr, joint=True)
    run.forget_background()
    folder.running(job.key).unlink(missing_ok=True)


def _views(run: Run, frames: Sequence[int], each: int) -> tuple[tuple[int, ...], ...]:
    """For every frame the views that teach, `each` at most, so that all have their turn: those that
    taught the background, where their image teaches the frame."""
    known = [view for view in run.views if view in run.plates]
    chosen = []
    for number, frame in enumerate(frames):
        first = number * each % max(1, len(known))
        turn = [*known[first:], *known[:first]][:each]
        chosen.append(tuple(run.images.usable(frame, turn)))
    return tuple(chosen)
