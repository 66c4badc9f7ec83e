"""The static background of a capture: found from the clean plates, trained once, kept apart."""

from __future__ import annotations

import logging

import numpy as np
import torch

from .. import __name__ as engine_name
from ..capture.capture import Capture
from ..errors import ReconstructionError
from ..geometry.background import BackgroundSettings, static_background
from ..geometry.plane_sweep import SweepSettings
from ..geometry.surface_fusion import FusionSettings
from ..model.camera_color import CameraColor
from ..model.camera_rotation import REFERENCE_LONGER, CameraRotation
from ..model.points import ExplicitPoints
from ..render.splats import SH_C0, Splats
from .checkpoint import save_splats
from .images import PlateImages
from .plates import plate_depth
from .run import Run
from .trainer import Job, StepCallback, train

log = logging.getLogger(engine_name)

#: Plates that a background needs at least: two views can agree on a wrong place.
_FEWEST_PLATES = 3
#: A background of which so much was measured has its points where they belong.
_MEASURED = 0.5
#: Corrections of a camera beyond this are reported, in pixels of an image that is 640 long.
_FAR_OFF = 1.0
#: Of the time that is left when it can be trained; the frames get the rest.
_TIME_SHARE = 0.35


def reconstruct_background(
    run: Run, on_step: StepCallback
) -> tuple[CameraColor, CameraRotation | None] | None:
    """Train the background into the folder and return what was learned with it of the cameras:
    their colours, and how they are turned (None where the plan takes them as they are given).

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
    # Who asks for hulls where there are depth maps does not trust these.
    trusted = plan.points == "depth"
    depths = [plate_depth(capture, run.reader, view) if trusted else None for view in used]
    try:
        found = static_background(
            [capture.camera(0, view) for view in used],
            [plates[view][..., :3] for view in used],
            [plates[view][..., 3] > 0 for view in used],
            bounds=capture.bounds,
            # Where the other cameras stand is known, and that nothing is in front of them.
            lenses=[capture.camera(0, view) for view in range(len(capture.views))],
            depths=depths,
            settings=background_settings,
        )
    except ReconstructionError as error:
        log.warning("no static background: %s", error)
        return None
    run.watch.check()
    measured = np.mean([0 if depth is None else (depth > 0).mean() for depth in depths])
    settings = plan.settings.for_background
    if measured > _MEASURED:
        settings = plan.settings.for_measured_background
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
    rotation = None
    if settings.rotation_rate:
        cameras = [capture.camera(0, view) for view in range(len(capture.views))]
        centre = np.median(found.points.position, axis=0)
        rotation = CameraRotation(cameras, used, centre).to(run.device)
    psnr = train(
        model.to(run.device),
        color,
        job,
        PlateImages(capture, {view: plates[view] for view in used}, run.device),
        settings,
        learn_color=True,
        rotation=rotation,
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
    if rotation is not None:
        _say_moved(capture, used, rotation)
    return color, rotation


def seen_by_mean_camera(splats: Splats, log_gain: torch.Tensor, offset: torch.Tensor) -> Splats:
    """Points whose colours take over a gain and an offset, (3,) each, that all cameras shared."""
    sh = splats.sh * np.exp(log_gain.detach().numpy())
    sh[:, 0] += offset.detach().numpy() / SH_C0
    return Splats(splats.position, splats.radius, splats.density, sh)


def _say_moved(capture: Capture, views: list[int], rotation: CameraRotation) -> None:
    """Tell how far the cameras were turned, and warn of those that were far off."""
    moved = rotation.moved_pixels()
    pixels = moved * [max(view.width, view.height) / REFERENCE_LONGER for view in capture.views]
    log.info("cameras turned by %.2f pixels on average", pixels[views].mean())
    far = [view for view in views if moved[view] > _FAR_OFF]
    if far:
        worst = max(far, key=lambda view: moved[view])
        log.warning(
            "the calibration of view %s was corrected by up to %.1f pixels",
            ", ".join(capture.views[view].name for view in far),
            pixels[worst],
        )
