"""The static background of a capture: found from the clean plates, trained once, kept apart."""

from __future__ import annotations

import logging

import numpy as np
import torch

from .. import __name__ as engine_name
from ..errors import ReconstructionError
from ..geometry.background import BackgroundSettings, static_background
from ..geometry.plane_sweep import SweepSettings
from ..geometry.surface_fusion import FusionSettings
from ..model.camera_color import CameraColor
from ..model.points import ExplicitPoints
from ..render.splats import SH_C0, Splats
from .checkpoint import save_splats
from .images import PlateImages
from .run import Run
from .trainer import Job, StepCallback, train

log = logging.getLogger(engine_name)

#: Plates that a background needs at least: two views can agree on a wrong place.
_FEWEST_PLATES = 3
#: Of the time that is left when it can be trained; the frames get the rest.
_TIME_SHARE = 0.35


def reconstruct_background(run: Run, on_step: StepCallback) -> CameraColor | None:
    """Train the background into the folder and return the cameras' colours learned with it.

    None where the capture shows no static background; the log says why.
    """
    plan, folder, capture, plates = run.plan, run.folder, run.capture, run.plates
    if plan.background == "none":
        return None
    used = [view for view in run.views if view in plates]
    if capture.moving or len(used) < _FEWEST_PLATES:
        reason = "the cameras move" if capture.moving else f"{len(used)} views have clean plates"
        log.info("no static background: %s", reason)
        return None
    fusion = FusionSettings(pixels_per_point=plan.settings.background_pixels)
    maps = SweepSettings(longer_side=plan.settings.background_maps)
    background_settings = BackgroundSettings(sweep=maps, fusion=fusion)
    try:
        found = static_background(
            [capture.camera(0, view) for view in used],
            [plates[view][..., :3] for view in used],
            [plates[view][..., 3] > 0 for view in used],
            bounds=capture.bounds,
            # Where the other cameras stand is known, and that nothing is in front of them.
            lenses=[capture.camera(0, view) for view in range(len(capture.views))],
            settings=background_settings,
        )
    except ReconstructionError as error:
        log.warning("no static background: %s", error)
        return None
    run.watch.check()
    settings = plan.settings.for_background
    model = ExplicitPoints(
        found.points.position,
        found.color,
        found.points.spacing,
        sh_degree=settings.sh_degree,
        radius=settings.radius * found.scale,
        density=settings.density,
    )
    job = Job("background", (0,), (tuple(used),))
    save_splats(folder.initial_background, model().to_splats())
    color = CameraColor(len(capture.views))
    psnr = train(
        model.to(run.device),
        color,
        job,
        PlateImages(capture, {view: plates[view] for view in used}, run.device),
        settings,
        learn_color=True,
        seconds=run.seconds(_TIME_SHARE),
        checkpoint=folder.running(job.key),
        on_step=on_step,
        watch=run.watch,
    )
    log_gain, offset = color.center(used)
    splats = model().to_splats()
    # Points may have moved to where they hide nothing in a plate, but the subject in the clip.
    kept = ~found.misplaced(splats.position, 0.7 * splats.radius, background_settings)
    splats = seen_by_mean_camera(splats.select(kept), log_gain, offset)
    save_splats(folder.background, splats, psnr=psnr)
    folder.running(job.key).unlink(missing_ok=True)
    return color


def seen_by_mean_camera(splats: Splats, log_gain: torch.Tensor, offset: torch.Tensor) -> Splats:
    """Points whose colours take over a gain and an offset, (3,) each, that all cameras shared."""
    sh = splats.sh * np.exp(log_gain.detach().numpy())
    sh[:, 0] += offset.detach().numpy() / SH_C0
    return Splats(splats.position, splats.radius, splats.density, sh)
