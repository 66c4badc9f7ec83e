"""What all frames share: the static background, the point spacing and the cameras' colours."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from ..model.camera_color import CameraColor
from ..progress import Progress, ProgressCallback
from ..render.backend import Instance, render_scene
from .background import reconstruct_background
from .cameras import corrected, load_color, load_spacing, save_cameras
from .checkpoint import load_tensors, save_tensors
from .initialize import initial_surface
from .levels import explicit_points, starting_points
from .run import Run
from .trainer import Job, StepCallback, train

#: Frames, spread over the clip, on which the cameras' colours are learned.
COLOR_FRAMES = 2
#: Of a pixel that is filled in on a plate.
_COVERED = 0.95
#: Of the time that is left, for each frame that teaches the colours.
_TIME_SHARE = 0.15


def shared_stage(run: Run, progress: ProgressCallback) -> None:
    """Find what all frames share, or read it from the folder, into `run`. Raises PeelError.

    Whole images of the background teach the cameras' colours best; without one, a few frames of the
    subject do. What the subject has always hidden on a clean plate is shown by the background then.
    """
    _find_shared(run, progress)
    if run.background is not None:
        complete_plates(run)


@torch.no_grad()
def complete_plates(run: Run) -> None:
    """Fill the holes of the run's clean plates with its background, which other cameras have seen,
    in the colours of the plate's camera."""
    settings = run.plan.settings.for_background
    instances = [Instance(run.background, np.eye(4))]
    for view in run.views:
        plate = run.plates.get(view)
        if plate is None or plate[..., 3].all():
            continue
        camera = run.capture.camera(0, view)
        rgba = torch.from_numpy(
            render_scene(instances, camera, settings.peel, samples=settings.samples).rgba
        )
        seen = run.color(view, rgba[..., :3], rgba[..., 3:], camera).clamp(0, 1).numpy()
        filled = (plate[..., 3] == 0) & (rgba[..., 3].numpy() > _COVERED)
        run.plates[view] = plate = plate.copy()
        plate[filled, :3] = np.round(seen[filled] * 255)
        plate[filled, 3] = 255


def _find_shared(run: Run, progress: ProgressCallback) -> None:
    plan, folder, capture = run.plan, run.folder, run.capture
    if folder.shared.is_file():
        run.spacing, run.color = load_spacing(folder), load_color(folder, capture)
        run.stand(corrected(capture, folder))
        return
    report = _reporter(progress, "background", 0, 1, later=len(plan.frames))
    learned = reconstruct_background(run, report)
    count = min(COLOR_FRAMES, len(plan.frames))
    positions = np.linspace(0, len(plan.frames) - 1, count + 2)[1:-1].round().astype(int)
    labels = [plan.frames[i] for i in sorted(set(positions))]
    if learned is None:
        _, run.color = color_stage(run, labels, progress)
        return
    color, rotation = learned
    if rotation is not None:
        run.stand(capture.posed(*rotation.extrinsics()))
    frame = run.capture.frames.index(labels[0])
    surface = initial_surface(
        run.capture,
        run.reader,
        frame,
        run.views,
        source=plan.points,
        pixels=plan.settings.pixels_of(plan.points),
        plates=run.plates,
    )
    save_cameras(folder, color, rotation, spacing=surface.spacing)
    run.spacing, run.color = surface.spacing, color


def color_stage(
    run: Run, labels: list[int], progress: ProgressCallback
) -> tuple[float, CameraColor]:
    """The point spacing, also into `run`, and the cameras' colours from the subject in a few
    frames."""
    plan, folder, capture = run.plan, run.folder, run.capture
    color = CameraColor(len(capture.views))
    log_gain, offset, weight = (torch.zeros_like(color.log_gain) for _ in range(3))
    settings = replace(plan.settings, model="explicit", steps=max(150, plan.settings.steps // 2))
    for number, label in enumerate(labels):
        frame = capture.frames.index(label)
        usable = run.images.usable(frame, run.views)
        learned = CameraColor(len(capture.views))
        # The crops around a subject are too small to tell a lens from the light.
        learned.vignetting.requires_grad_(False)
        if folder.color(label).is_file():
            tensors, metadata = load_tensors(folder.color(label))
            learned.load_state_dict(tensors)
            run.spacing = float(metadata["spacing"])
        else:
            points, rgb = starting_points(run, label)
            run.spacing = points.spacing
            if len(usable) < 3:
                continue  # two cameras cannot tell a camera's colour from a material's
            job = Job(f"color-{label}", (frame,), (tuple(usable),))
            inset = settings.inset_of(plan.points)
            train(
                explicit_points(points, rgb, settings, inset=inset).to(run.device),
                learned,
                job,
                run.images,
                settings,
                learn_color=True,
                seconds=run.seconds(_TIME_SHARE),
                checkpoint=folder.running(job.key),
                on_step=_reporter(
                    progress,
                    "camera colour",
                    number,
                    len(labels),
                    # The frames' own steps come after these.
                    later=len(plan.frames) * plan.settings.steps / settings.steps,
                ),
                watch=run.watch,
            )
            save_tensors(folder.color(label), learned.state_dict(), spacing=run.spacing)
            folder.running(job.key).unlink(missing_ok=True)
        learned.center(usable)
        log_gain[usable] += learned.log_gain.detach()[usable]
        offset[usable] += learned.offset.detach()[usable]
        weight[usable] += 1
    with torch.no_grad():
        color.log_gain += log_gain / weight.clamp_min(1)
        color.offset += offset / weight.clamp_min(1)
        taught = torch.nonzero(weight[:, 0]).flatten().tolist()
        if taught:
            color.center(taught)
    save_cameras(folder, color, None, spacing=run.spacing)
    for label in labels:
        folder.color(label).unlink(missing_ok=True)
    return run.spacing, color


def _reporter(
    progress: ProgressCallback,
    stage: str,
    first: int,
    jobs: int,
    *,
    later: float = 0.0,
) -> StepCallback:
    """Turn the steps of one job into the progress of a stage that counts jobs in thousandths.

    later: how many such jobs other stages will train after this one, for the time left.
    """
    started = time.monotonic()

    def report(step: int, total: int, psnr: float) -> None:
        part = step / total
        done = first + part
        elapsed = time.monotonic() - started
        eta = elapsed / max(part, 1e-6) * (jobs + later - done)
        progress(Progress(stage, round(done * 1000), jobs * 1000, eta, {"training_psnr": psnr}))

    return report
