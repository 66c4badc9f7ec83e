"""Points on the lattices of a packed clip, fitted to the footage again.

Rounding is an error that training has not seen. Trained on for a moment with the rounding in place
(straight-through) and with a price on bits, points lose less than a third of the quality at the
same steps, or the same at twice as long ones. Source: the joint optimisation of method.md, section
3, for explicit points.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
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
from .finished import finished_plan, missing
from .footage_pool import Footage, FootagePool, opened, processes_for
from .images import ImageSource, PlateImages
from .plan import Folder, Plan
from .run import Run
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

    directory: its folder. capture: where the footage is now, if it has moved. jobs: processes that
    fit frames; None for as many as use the machine well. watch: may end the work after any step, of
    one process. A context manager. Raises PeelError: the capture must have the views, frames and
    cameras that were reconstructed.
    """

    def __init__(
        self,
        directory: Path,
        capture: Path | None = None,
        *,
        jobs: int | None = 1,
        max_memory: int | None = None,
        device: str = "auto",
        progress: ProgressCallback = silent,
        watch: Watch = UNWATCHED,
    ):
        folder = Folder(Path(directory))
        self._plan = finished_plan(folder, capture)
        opened = open_capture(self._plan.capture, size=self._plan.size)
        _check_same(opened, self._plan, folder)
        footage = Footage(folder.root, self._plan, max_memory, device)
        self._alone = threading.Lock()
        self._run = self._pool = None
        # The static points are one job among those of the frames.
        self.at_once = processes_for(jobs, len(self._plan.frames), footage)
        if self.at_once > 1:
            self._pool = FootagePool(footage, self.at_once)
        else:
            self._run = footage.open(progress, watch)

    def __enter__(self) -> Refit:
        return self

    def __exit__(self, *error) -> None:
        if self._pool is not None:
            self._pool.__exit__(*error)

    def frame(self, index: int, splats: Splats, steps: Steps, cell: float) -> Splats:
        return self._fitted(_Fit(self._plan.frames[index], splats, steps, cell))

    def static(self, splats: Splats, steps: Steps, cell: float) -> Splats:
        return self._fitted(_Fit(None, splats, steps, cell))

    def _fitted(self, fit: _Fit) -> Splats:
        if self._pool is not None:
            return self._pool.do(fit)
        with self._alone:
            return fit.on(self._run)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Points to be fitted: those of the frame with this label, or the static ones (None)."""

    label: int | None
    splats: Splats
    steps: Steps
    cell: float

    def run(self, footage: Footage) -> Splats:
        return self.on(opened(footage))

    def on(self, run: Run) -> Splats:
        if self.label is None:
            used = tuple(view for view in run.views if view in run.plates)
            images: ImageSource = PlateImages(
                run.capture, {view: run.plates[view] for view in used}, run.device
            )
            settings = replace(run.plan.settings.for_background, steps=_STATIC_STEPS)
            job = Job("refit", (0,), (used,))
        else:
            frame = run.capture.frames.index(self.label)
            images, settings = run.images, replace(run.plan.settings, steps=_STEPS)
            job = Job(f"refit-{self.label}", (frame,), (tuple(images.usable(frame, run.views)),))
        if not any(job.views):
            return self.splats  # nothing to learn from
        price = _BIT_PRICE * self.steps.color**2
        model = LatticePoints(self.splats, self.steps, self.cell, run.spacing, weight=price)
        train(model.to(run.device), run.color, job, images, settings, watch=run.watch)
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
