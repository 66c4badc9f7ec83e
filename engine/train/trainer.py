"""The optimisation: one crop of one image a step, Adam, exponential decay."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import PeelError, ReconstructionError
from ..model.camera_color import CameraColor
from ..model.camera_rotation import CameraRotation
from ..model.joint_background import JointBackground
from ..model.kplanes import FieldPoints
from ..model.lattice_points import LatticePoints
from ..model.points import ExplicitPoints, Roughness
from .checkpoint import load_tensors, save_tensors
from .descent import Descent
from .images import ImageSource
from .perceptual import load_lpips
from .picture_loss import picture_loss
from .settings import TrainSettings
from .watch import UNWATCHED, Watch

#: Seconds between checkpoints inside a job.
CHECKPOINT_SECONDS = 15.0
#: Steps whose mean error is reported.
_REPORTED_STEPS = 50
#: Learning rates of points on lattices, relative to those from the start.
_REFIT = 0.3
#: Steps that are made however little time there is.
_FEWEST_STEPS = 20

Model = ExplicitPoints | FieldPoints | LatticePoints | JointBackground
StepCallback = Callable[[int, int, float], None]
#: Gets the time step that was just trained.
PreviewCallback = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """One training job: a model and the (frame, view) images that teach it.

    frames: capture frame index of each of the model's steps in time. views: usable views of each.
    key: what names the job in random seeds and checkpoints, so that a resumed job draws the same
    images in the same order.
    """

    key: str
    frames: tuple[int, ...]
    views: tuple[tuple[int, ...], ...]


def schedule(job: Job, settings: TrainSettings) -> list[tuple[int, int]]:
    """(time step, view) of every optimisation step: shuffled epochs, the same for the same seed."""
    every = [(step, view) for step, views in enumerate(job.views) for view in views]
    if not every:
        return []
    seed = np.frombuffer(f"{settings.seed}/{job.key}".encode(), dtype=np.uint8)
    random = np.random.default_rng(seed.tolist())
    total = settings.steps * sum(1 for views in job.views if views)
    order: list[tuple[int, int]] = []
    while len(order) < total:
        order.extend(every[i] for i in random.permutation(len(every)))
    return order[:total]


def optimizer_for(
    model: Model,
    color: CameraColor | None,
    settings: TrainSettings,
    rotation: CameraRotation | None = None,
) -> torch.optim.Adam:
    """Adam with the learning rates of `settings`; `color` and `rotation` join when they are to be
    learned."""
    if isinstance(model, FieldPoints):
        groups = [
            (list(model.offsets), settings.position_rate),
            (list(model.colors), settings.color_rate / 0.282),
            (list(model.field.parameters()), settings.field_rate),
            (list(model.heads.parameters()), settings.head_rate),
        ]
    elif isinstance(model, LatticePoints):
        # Codes move by what their values would; they are nearly where they belong.
        groups = [
            ([model.radius], _REFIT * settings.radius_rate / model.radius_step),
            ([model.density], _REFIT * settings.density_rate / model.density_step),
            ([model.color], _REFIT * settings.color_rate / 0.282 / model.color_step),
            (
                [model.shading],
                _REFIT * settings.color_rate / float(model.shading_steps.mean()),
            ),
        ]
    elif isinstance(model, JointBackground):
        groups = [
            ([model.density_raw], settings.density_rate),
            ([model.color], settings.color_rate / 0.282),
        ]
    else:
        # The DC coefficient is colour / Y_0, so its rate is scaled alike to move colours by
        # `color_rate`; the directional part learns slower, as it is seen by few cameras each.
        groups = [
            ([model.offset], settings.position_rate),
            ([model.radius_raw], settings.radius_rate),
            ([model.density_raw], settings.density_rate),
            ([model.color], settings.color_rate / 0.282),
            ([model.directional], settings.color_rate),
        ]
    if color is not None:
        learned = [parameter for parameter in color.parameters() if parameter.requires_grad]
        groups.append((learned, settings.color_rate))
    if rotation is not None:
        groups.append(([rotation.raw], settings.rotation_rate))
    return torch.optim.Adam(
        [{"params": parameters, "lr": rate} for parameters, rate in groups],
        eps=1e-15,
        fused=True,
    )


def alternating(settings: TrainSettings) -> tuple[TrainSettings, TrainSettings]:
    """The recipes of even and of odd steps: D-SSIM comes every other time, twice as strong, which
    teaches the same for half its time."""
    return (
        replace(settings, dssim_weight=2 * settings.dssim_weight),
        replace(settings, dssim_weight=0.0),
    )


def regularization(model: Model, settings: TrainSettings) -> torch.Tensor | float:
    """What keeps points alike that are neighbours; a field does so by itself. For points on
    lattices it is the price of their bits."""
    if isinstance(model, LatticePoints):
        return model.weight * model.bits() if model.weight else 0.0
    weights = Roughness(
        settings.position_roughness,
        settings.offset_roughness,
        settings.color_roughness,
        settings.shimmer,
    )
    if not isinstance(model, ExplicitPoints) or not any(weights):
        return 0.0
    return sum(w * r for w, r in zip(weights, model.roughness(), strict=True))


def train(
    model: Model,
    color: CameraColor,
    job: Job,
    images: ImageSource,
    settings: TrainSettings,
    *,
    learn_color: bool = False,
    rotation: CameraRotation | None = None,
    seconds: float = math.inf,
    checkpoint: Path | None = None,
    keep: bool = False,
    on_step: StepCallback | None = None,
    watch: Watch = UNWATCHED,
    on_preview: PreviewCallback | None = None,
) -> float:
    """Optimise `model` in place and return the training PSNR of the last epoch, in dB.

    Where the model is, `images` must be; `color` is moved there for as long as it takes.
    checkpoint: a file that is written every few seconds and read first if it belongs to this job;
    training then goes on where it stopped and ends in the same place. keep: write the end there,
    too, for a job that goes on from it. learn_color: also learn those parts of `color` that require
    gradients, instead of none. rotation: of the cameras, is learned, too, where it is given.
    seconds: that it may take; the rates decay with the time then, and there are fewer steps.
    on_step(step, total, psnr) is called about ten times a second. watch: may end training after any
    step, which is saved first, and asks for on_preview(time step). Raises ReconstructionError when
    nothing can be learned or the optimisation diverges, and what `watch` raises.
    """
    order = schedule(job, settings)
    if not order:
        raise ReconstructionError(
            f"no usable image in frame {job.key}",
            hint="Check the masks with `peel4d info`; every one of this frame is empty or missing",
        )
    if not learn_color:
        color.requires_grad_(False)
    with _on_device(color, next(model.parameters()).device):
        optimizer = optimizer_for(model, color if learn_color else None, settings, rotation)
        descent = Descent(optimizer, settings.decay)
        parts = {"model": model, "color": color}
        if rotation is not None:
            parts["rotation"] = rotation
        first, spent = 0, 0.0
        if checkpoint:
            first, spent = _restore(checkpoint, job, settings, parts, optimizer)
        # They stay on the device until somebody asks: reading a number waits for the GPU.
        errors: list[torch.Tensor] = []
        recipes = alternating(settings)
        begun = saved = reported = time.monotonic()

        def save(step: int, part: float) -> None:
            recent(_REPORTED_STEPS)  # what has diverged is not worth keeping
            _save(checkpoint, job, settings, step, part, parts, optimizer)

        def recent(count: int) -> float:
            """PSNR of the last steps. Raises ReconstructionError where there is none any more."""
            if not errors:
                return 0.0
            values = torch.stack(errors[-count:]).cpu().numpy()
            if not np.isfinite(values).all():
                raise ReconstructionError(
                    f"training diverged in frame {job.key}, before step {first + len(errors)}",
                    hint="Lower the learning rates, or report this with the log file",
                )
            return psnr_of(values)

        for step in range(first, len(order)):
            # How much of the job is done, by its steps or by its time.
            timed = spent + (1 - spent) * (time.monotonic() - begun) / max(seconds, 1e-3)
            part = max(step / len(order), timed)
            if part >= 1 and step >= first + _FEWEST_STEPS:
                break
            time_step, view = order[step]
            image = images.get(job.frames[time_step], view)
            points, recipe = model(time_step), recipes[step % 2]
            if rotation is not None:
                points = points._replace(position=rotation(view, points.position))
            loss, error = picture_loss(points, model.spacing, image, view, color, recipe)
            loss = loss + regularization(model, settings)
            descent.step(loss, min(part, 1.0))
            errors.append(error)

            try:
                watch.check()
            except PeelError:
                if checkpoint:
                    save(step + 1, part)
                raise
            if on_preview and watch.preview_due():
                on_preview(time_step)
            now = time.monotonic()
            if now - reported > 0.1:
                psnr = recent(_REPORTED_STEPS)
                if on_step:
                    on_step(max(step + 1, round(min(part, 1.0) * len(order))), len(order), psnr)
                reported = now
            if checkpoint and now - saved > CHECKPOINT_SECONDS:
                save(step + 1, part)
                saved = now
        if keep and checkpoint:
            save(len(order), 1.0)
        if on_step:
            on_step(len(order), len(order), recent(_REPORTED_STEPS))
        return recent(len(set(order)))


@contextmanager
def _on_device(color: CameraColor, device: torch.device) -> Iterator[None]:
    home = color.vignetting.device
    color.to(device)
    try:
        yield
    finally:
        color.to(home)


def psnr_of(errors: np.ndarray) -> float:
    """Mean PSNR in dB of mean squared errors (N,), N > 0."""
    return float(-10 * np.log10(np.maximum(errors, 1e-10)).mean())


def _identity(job: Job, settings: TrainSettings) -> dict:
    return {
        "job": job.key,
        "settings": repr(settings),
        "views": [list(v) for v in job.views],
        "lpips": bool(settings.lpips_weight and load_lpips()),
    }


def _save(
    path: Path,
    job: Job,
    settings: TrainSettings,
    step: int,
    part: float,
    modules: Mapping[str, torch.nn.Module],
    optimizer: torch.optim.Adam,
) -> None:
    tensors = {
        f"{module}.{name}": value
        for module, learned in modules.items()
        for name, value in learned.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    save_tensors(path, tensors, step=step, part=part, **_identity(job, settings))


def _restore(
    path: Path,
    job: Job,
    settings: TrainSettings,
    modules: Mapping[str, torch.nn.Module],
    optimizer: torch.optim.Adam,
) -> tuple[int, float]:
    """Load a checkpoint of this very job and return the step to go on with and the part of the job
    that was done; zeros if there is none."""
    if not path.is_file():
        return 0, 0.0
    tensors, metadata = load_tensors(path)
    identity = _identity(job, settings)
    if {name: metadata.get(name) for name in identity} != identity:
        return 0, 0.0
    parts: dict[str, dict] = {name: {} for name in (*modules, "adam")}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in parts["adam"].items():
        index, _, field = name.partition(".")
        state.setdefault(int(index), {})[field] = value
    try:
        for name, module in modules.items():
            module.load_state_dict(parts[name])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (RuntimeError, KeyError, ValueError) as error:
        raise ReconstructionError(
            "the checkpoint does not fit this reconstruction",
            where=path,
            hint="Delete this file; --resume then trains its frames again",
        ) from error
    return int(metadata["step"]), float(metadata["part"])
