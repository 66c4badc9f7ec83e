"""Finished reconstructions and their footage, for those who train on them again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..capture.capture import Capture
from ..errors import ReconstructionError
from ..progress import ProgressCallback, silent
from .plan import Folder, Plan, load_plan
from .run import DEFAULT_MEMORY, Run, open_run
from .shared import shared_stage
from .watch import UNWATCHED, Watch


def finished_plan(folder: Folder, capture: Path | None = None) -> Plan:
    """The plan of a finished reconstruction. capture: where its footage is now, if it has moved.
    Raises ReconstructionError."""
    plan = load_plan(folder)
    if not folder.clip.is_file() or not folder.shared.is_file():
        raise ReconstructionError(
            "the reconstruction is not finished", where=folder.root, hint="Go on with --resume"
        )
    return plan if capture is None else replace(plan, capture=str(Path(capture).resolve()))


def missing(plan: Plan, capture: Capture) -> str | None:
    """What a capture lacks that was reconstructed, as a clause; None where it has everything."""
    views = {*plan.views, *plan.test_views} - {view.name for view in capture.views}
    if views:
        return f"it has no view '{min(views)}'"
    frames = set(plan.frames) - set(capture.frames)
    return f"it has no frame {min(frames)}" if frames else None


def open_finished(
    plan: Plan,
    folder: Folder,
    capture: Capture,
    *,
    max_memory: int | None = None,
    device: torch.device | None = None,
    progress: ProgressCallback = silent,
    watch: Watch = UNWATCHED,
) -> Run:
    """Pictures, plates, cameras' colours and background of a finished reconstruction, ready to be
    learned from. device: the CPU by default. Raises PeelError."""
    run = open_run(
        plan,
        folder,
        capture,
        max_memory=max_memory or DEFAULT_MEMORY,
        device=device or torch.device("cpu"),
        progress=progress,
        watch=watch,
    )
    shared_stage(run, progress)
    return run
