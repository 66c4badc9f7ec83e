"""Quality over training time: one frame trained again and again, with more and more steps."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import ReconstructionError
from ..progress import Progress, ProgressCallback, silent
from .evaluate import held_out_pictures, score
from .levels import explicit_points, points_now, starting_points, train_levels
from .masks import open_planned
from .plan import Folder, load_plan
from .run import Run, open_run, training_device
from .shared import shared_stage
from .watch import UNWATCHED

#: Steps of the first training; every further one has twice as many, the last those of the plan.
_FIRST_STEPS = 25
#: For images while a curve is measured, bytes.
_MEMORY = 2 << 30


def quality_over_time(
    directory: Path,
    *,
    region: str = "full",
    device: str = "auto",
    progress: ProgressCallback = silent,
) -> dict:
    """What the middle frame of a finished reconstruction scores after so much training.

    Every row is a training of its own, with its rates decayed to the end; seconds count from the
    images to the points, without what all frames share. The first row is the untrained points.
    Returns {"frame", "region", "device", "rows": [{"steps", "seconds", "psnr", "ssim"}]}. Raises
    ReconstructionError where no held-out view can be scored or the model is not "explicit".
    """
    folder = Folder(Path(directory))
    plan = load_plan(folder)
    if plan.settings.model != "explicit":
        raise ReconstructionError(
            "a curve is measured with explicit points only",
            where=folder.root,
            hint="A field trains ten frames at a time; compare runs with different --steps",
        )
    if not folder.shared.is_file():
        raise ReconstructionError(
            "the reconstruction is not finished", where=folder.root, hint="Go on with --resume"
        )
    on = training_device(device)
    run = open_run(
        plan,
        folder,
        open_planned(plan, folder),
        max_memory=_MEMORY,
        device=on,
        progress=silent,
        watch=UNWATCHED,
    )
    shared_stage(run, silent)
    label = plan.frames[len(plan.frames) // 2]
    rounds = [0]
    while rounds[-1] < plan.settings.steps:
        rounds.append(min(max(_FIRST_STEPS, 2 * rounds[-1]), plan.settings.steps))
    rows = []
    for number, steps in enumerate(rounds):
        rows.append(_measured(run, label, steps, region))
        progress(Progress("curve", number + 1, len(rounds)))
    return {"frame": label, "region": region, "device": on.type, "rows": rows}


def _measured(run: Run, label: int, steps: int, region: str) -> dict:
    frame = run.capture.frames.index(label)
    begun = time.monotonic()
    points, rgb = starting_points(run, label)
    settings = run.plan.settings
    if steps:
        settings = replace(settings, steps=steps)
        model, _ = train_levels(run, label, points, rgb, settings=settings, resumable=False)
    else:
        # As a hull is shown untrained, the points are where they were found.
        model = explicit_points(points, rgb, settings, inset=0.0)
    splats = points_now(model, 0)
    seconds = time.monotonic() - begun
    shown = held_out_pictures(run, splats, frame, region)
    scores = [score(name, label, *pictures) for name, *pictures in shown]
    if not scores:
        raise ReconstructionError(
            f"no held-out view of frame {label} can be scored",
            where=run.capture.path,
            hint="Reconstruct with --test-views, or choose another --region",
        )
    means = {name: float(np.mean([getattr(s, name) for s in scores])) for name in ("psnr", "ssim")}
    return {"steps": steps, "seconds": round(seconds, 3), **means}
