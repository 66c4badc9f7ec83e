"""From a capture to a clip: the stages of a reconstruction, each resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..capture.capture import Capture
from ..capture.detect import open_capture
from ..errors import ReconstructionError
from ..progress import ProgressCallback, silent
from .bake import bake
from .frames import Unit, train_in_turn, units_left
from .joint import joint_stage
from .plan import Folder, Plan, fingerprint, load_plan, save_plan, unreadable
from .run import DEFAULT_MEMORY, Run, checked, open_run, training_device
from .shared import shared_stage
from .watch import UNWATCHED, Watch

#: Trains units of frames into the folder of a run; raises PeelError.
TrainFrames = Callable[[Run, Sequence[Unit], ProgressCallback], None]

#: Of a time budget; the rest is for writing the clip and looking at the held-out views.
_TRAINING_SHARE = 0.95
#: Of the time that is left for frames: what the background gets afterwards.
_JOINT_SHARE = 0.08


def reconstruct(
    plan: Plan,
    output: Path,
    *,
    resume: bool = False,
    max_memory: int = DEFAULT_MEMORY,
    device: str = "auto",
    time_budget: float = math.inf,
    progress: ProgressCallback = silent,
    watch: Watch = UNWATCHED,
    train_frames: TrainFrames = train_in_turn,
) -> dict:
    """Train `plan` into the folder `output` and bake `clip.p4d` and `initial.p4d` there.

    resume: go on with what is in the folder; a frame that is complete is not trained again and an
    unfinished one continues from its last checkpoint. device: "auto", "cpu" or "cuda". time_budget:
    seconds after which training should be done, with fewer steps where these would take longer.
    watch: is shown the points of a running frame and may end the run anywhere. train_frames: who
    trains the frames once all that they share is in the folder. Returns {"seconds", "points",
    "bytes_per_frame", ...}. Raises CaptureError, ReconstructionError, OutputError and what `watch`
    raises.
    """
    started = time.monotonic()
    folder = Folder(Path(output))
    capture = open_capture(plan.capture, size=plan.size)
    on = training_device(device)
    _claim(folder, plan, capture, resume)
    run = open_run(
        plan,
        folder,
        capture,
        max_memory=max_memory,
        device=on,
        progress=progress,
        watch=watch,
        deadline=started + time_budget * _TRAINING_SHARE,
    )
    shared_stage(run, progress)
    last = run.deadline
    if run.background is not None and math.isfinite(last):
        run.deadline -= run.seconds(_JOINT_SHARE)
    train_frames(run, units_left(plan, folder), progress)
    run.deadline = last
    joint_stage(run, progress)
    for left_over in folder.all_running():
        left_over.unlink(missing_ok=True)
    result = bake(plan, folder, run.capture, checked(progress, watch))
    seconds = time.monotonic() - started
    return {**result, "seconds": seconds, "spacing": run.spacing, "device": on.type}


def _claim(folder: Folder, plan: Plan, capture: Capture, resume: bool) -> None:
    """Make the folder ours, or go on with what is in it."""
    if folder.plan.is_file():
        if not resume:
            raise ReconstructionError(
                "a reconstruction is already here",
                where=folder.root,
                hint="Add --resume to go on with it, or choose another folder",
            )
        before = load_plan(folder)
        if fingerprint(capture, unreadable(folder)) == before.fingerprint:
            # Files that stopped it have been repaired.
            plan = replace(plan, fingerprint=before.fingerprint)
        if before != plan:
            changed = [n for n in plan.__dict__ if getattr(plan, n) != getattr(before, n)]
            if changed == ["fingerprint"]:
                raise ReconstructionError(
                    "the capture has changed since this reconstruction was started",
                    where=folder.root,
                    hint="Choose another folder, or delete this one and start again",
                )
            raise ReconstructionError(
                f"this folder was started with other {', '.join(changed)}",
                where=folder.root,
                hint="Resume with the same arguments, or choose another folder",
            )
    else:
        save_plan(folder, plan)
