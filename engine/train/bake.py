"""From the frames' checkpoints to clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..capture.capture import Capture
from ..clip.clip import ClipCamera
from ..clip.writer import write_clip
from ..progress import Progress, ProgressCallback, silent
from ..render.splats import Splats
from .checkpoint import load_splats
from .plan import Folder, Plan
from .settings import display_settings


def bake(plan: Plan, folder: Folder, capture: Capture, progress: ProgressCallback = silent) -> dict:
    """Write the clip and the clip of the initial points from the frames' checkpoints."""
    cameras = []
    for index, view in enumerate(() if capture.moving else capture.views):
        camera = capture.camera(0, index)
        size = (camera.width, camera.height)
        trained = view.name in plan.views
        cameras.append(ClipCamera(view.name, camera.K, camera.R, camera.t, *size, trained))
    has_background = folder.background.is_file()
    settings = display_settings(has_background)
    provenance = {
        "capture": Path(plan.capture).name,
        "preset": plan.preset,
        "model": plan.settings.model,
        "points": plan.points,
        "masks": plan.masks,
        "steps": plan.settings.steps,
        "seed": plan.settings.seed,
    }
    common = {
        "fps": capture.fps,
        "cameras": cameras,
        "settings": settings,
        "first_frame": plan.frames[0],
        "up": capture.up,
    }

    def frames(file: Callable[[int], Path], first: int) -> Iterator[Splats]:
        for number, label in enumerate(plan.frames):
            yield load_splats(file(label))
            progress(Progress("clip", first + number + 1, 2 * len(plan.frames)))

    write_clip(
        folder.initial_clip,
        frames(folder.initial, 0),
        static=load_splats(folder.initial_background) if has_background else None,
        provenance={**provenance, "stage": "initial"},
        **common,
    )
    info = write_clip(
        folder.clip,
        frames(folder.frame, len(plan.frames)),
        static=load_splats(folder.background) if has_background else None,
        provenance=provenance,
        **common,
    )
    size = folder.clip.stat().st_size
    return {
        "background_points": info.static_points,
        "frames": len(plan.frames),
        "points_per_frame": round(float(np.mean(info.points))),
        "bytes": size,
        "bytes_per_frame": round(size / len(plan.frames)),
    }
