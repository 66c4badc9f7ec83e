"""Points on the lattices of a packed clip, fitted to the footage again.

Rounding is an error that training has not seen. Trained on for a moment with the rounding in place
(straight-through) and with a price on bits, points lose less than a third of the quality at the
same steps, or the same at twice as long ones. Source: the joint optimisation of method.md, section
3, for explicit points.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..capture.capture import Capture
from ..capture.detect import open_capture
from ..clip.predictive import Steps
from ..clip.reader import ClipReader
from ..errors import ReconstructionError
from ..model.lattice_points import LatticePoints
from ..progress import ProgressCallback, silent
from ..render.splats import Splats
from .finished import finished_plan, missing, open_finished
from .images import ImageSource, PlateImages
from .plan import Folder, Plan
from .run import training_device
from .settings import TrainSettings
from .trainer import Job, train
from .watch import UNWATCHED, Watch

#: Steps per frame and for the static points: more of them fit the training views only.
_STEPS, _STATIC_STEPS = 100, 150
#: Price of a bit per point, in squared errors of a colour that is rounded by a whole step.
_BIT_PRICE = 0.8
#: Cameras of a clip have been turned by so much at most (radians); no more makes them others.
_TURNED = 0.05


class Refit:
    """The footage of a finished reconstruction; a `Fitter` of `engine/clip/pack.py`.

    directory: its folder. capture: where the footage is now, if it has moved. watch: may end the
    work after any step. Raises PeelError: the capture must have the views, frames and cameras that
    were reconstructed.
    """

    def __init__(
        self,
        directory: Path,
        capture: Path | None = None,
        *,
        max_memory: int | None = None,
        device: str = "auto",
        progress: ProgressCallback = silent,
        watch: Watch = UNWATCHED,
    ):
        folder = Folder(Path(directory))
        plan = finished_plan(folder, capture)
        opened = open_capture(plan.capture, size=plan.size)
        _check_same(opened, plan, folder)
        self._run = open_finished(
            plan,
            folder,
            opened,
            max_memory=max_memory,
            device=training_device(device),
            progress=progress,
            watch=watch,
        )

    def frame(self, index: int, splats: Splats, steps: Steps, cell: float) -> Splats:
        run = self._run
        frame = run.capture.frames.index(run.plan.frames[index])
        views = tuple(run.images.usable(frame, run.views))
        job = Job(f"refit-{run.plan.frames[index]}", (frame,), (views,))
        settings = replace(run.plan.settings, steps=_STEPS)
        return self._fitted(splats, steps, cell, job, run.images, settings)

    def static(self, splats: Splats, steps: Steps, cell: float) -> Splats:
        run = self._run
        used = tuple(view for view in run.views if view in run.plates)
        images = PlateImages(run.capture, {view: run.plates[view] for view in used}, run.device)
        settings = replace(run.plan.settings.for_background, steps=_STATIC_STEPS)
        return self._fitted(splats, steps, cell, Job("refit", (0,), (used,)), images, settings)

    def _fitted(
        self,
        splats: Splats,
        steps: Steps,
        cell: float,
        job: Job,
        images: ImageSource,
        settings: TrainSettings,
    ) -> Splats:
        if not any(job.views):
            return splats  # nothing to learn from
        run = self._run
        price = _BIT_PRICE * steps.color**2
        model = LatticePoints(splats, steps, cell, run.spacing, weight=price).to(run.device)
        train(model, run.color, job, images, settings, watch=run.watch)
        with torch.no_grad():
            return model().to_splats()


def _check_same(capture: Capture, plan: Plan, folder: Folder) -> None:
    """Raises ReconstructionError where a capture cannot be the one of the folder.

    Its files may have been copied, so their times say nothing; the cameras do.
    """
    problem = missing(plan, capture)
    if problem is None:
        with ClipReader(folder.clip) as reader:
            for stored in reader.info.cameras:
                camera = capture.camera(0, capture.view_index(stored.name))
                before = stored.camera()
                pairs = ((camera.K, before.K), (camera.centre, before.centre))
                same = all(np.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in pairs)
                if not (same and np.allclose(camera.R, before.R, atol=_TURNED)):
                    problem = f"its camera '{stored.name}' stands elsewhere"
    if problem:
        raise ReconstructionError(
            f"this is not the capture that was reconstructed: {problem}",
            where=capture.path,
            hint=f"The folder was made from {plan.capture}",
        )
