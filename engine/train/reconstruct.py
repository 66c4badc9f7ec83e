"""From a capture to a clip: the stages of a reconstruction, each resumable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from .. import __name__ as engine_name
from ..capture.capture import Capture
from ..capture.detect import open_capture
from ..capture.images import ImageReader
from ..clip.clip import ClipCamera
from ..clip.writer import write_clip
from ..errors import ReconstructionError
from ..geometry.filters import moved_inwards
from ..geometry.points import Points
from ..model.camera_color import CameraColor
from ..model.kplanes import FieldPoints
from ..model.points import ExplicitPoints
from ..progress import Progress, ProgressCallback, silent
from ..render.settings import PeelSettings
from ..render.splats import Splats
from .background import reconstruct_background
from .checkpoint import load_splats, load_tensors, save_splats, save_tensors
from .evaluate import held_out_psnr, load_color
from .images import TrainingImages
from .initialize import initial_points, initial_surface
from .masks import untrusted_views, with_masks
from .plan import FRAGMENT_FRAMES, Folder, Plan, fingerprint, load_plan, save_plan, unreadable
from .plates import load_plates
from .settings import TrainSettings
from .trainer import Job, train
from .watch import UNWATCHED, Watch

log = logging.getLogger(engine_name)

#: Frames, spread over the clip, on which the cameras' colours are learned.
COLOR_FRAMES = 2
#: Layers that a clip is displayed with (4K4D: 12), and one with a background behind its subject.
DISPLAY_LAYERS = 12
BACKGROUND_DISPLAY_LAYERS = 20


def cache_bytes(plan: Plan, capture: Capture, max_memory: int) -> tuple[int, int]:
    """Bytes to keep of decoded images and of training crops.

    What one job works on and no more, so that memory does not grow with the length of the clip; a
    quarter of `max_memory` each at most, and then images are decoded more than once.
    """
    names = set(plan.views)
    pixels = sum(view.width * view.height for view in capture.views if view.name in names)
    frames = FRAGMENT_FRAMES if plan.settings.model == "field" else 1
    # An image has 3 bytes a pixel, its mask 1 and depth 4, for two frames; the maps of a lens 10. A
    # crop has image, background, mask, where that is known, region and depth.
    lens = any(view.distortion or view.lens == "fisheye" for view in capture.views)
    image = 2 * (8 if plan.points == "depth" else 4) + (10 if lens else 0)
    crop = 13 if _learns_depth(plan) else 9
    most = max_memory // 4
    return min(most, image * pixels), min(most, (frames + 1) * crop * pixels)


def _learns_depth(plan: Plan) -> bool:
    return plan.points == "depth" and plan.settings.depth_weight > 0


@dataclass(eq=False)
class _Run:
    """What every stage of one run needs."""

    plan: Plan
    folder: Folder
    capture: Capture
    reader: ImageReader
    views: list[int]
    tests: list[int]
    plates: dict[int, np.ndarray]
    images: TrainingImages
    progress: ProgressCallback
    watch: Watch
    spacing: float
    color: CameraColor

    @cached_property
    def background(self) -> Splats | None:
        path = self.folder.background
        return load_splats(path) if path.is_file() else None

    def preview(self, label: int, splats: Splats) -> None:
        self.watch.preview(splats, label, fps=self.capture.fps, up=self.capture.up)

    def finish(self, label: int, splats: Splats, training_psnr: float) -> None:
        """Keep a trained frame and report how the held-out views like it."""
        save_splats(self.folder.frame(label), splats, psnr=training_psnr)
        frame, number = self.capture.frames.index(label), self.plan.frames.index(label) + 1
        metrics = {"training_psnr": training_psnr}
        scene = (splats,) if self.background is None else (splats, self.background)
        with torch.no_grad():
            test = held_out_psnr(
                scene, self.color, self.capture, self.reader, self.plates, frame, self.tests
            )
        if test is not None:
            metrics["test_psnr"] = test
        total = len(self.plan.frames) * 1000
        self.progress(Progress("frames", number * 1000, total, metrics=metrics))


def reconstruct(
    plan: Plan,
    output: Path,
    *,
    resume: bool = False,
    max_memory: int = 4 << 30,
    progress: ProgressCallback = silent,
    watch: Watch = UNWATCHED,
) -> dict:
    """Train `plan` into the folder `output` and bake `clip.p4d` and `initial.p4d` there.

    resume: go on with what is in the folder; a frame that is complete is not trained again and an
    unfinished one continues from its last checkpoint. watch: is shown the points of the running
    frame and may end the run anywhere. Returns {"seconds", "points", "bytes_per_frame", ...}.
    Raises CaptureError, ReconstructionError, OutputError and what `watch` raises.
    """
    started = time.monotonic()
    checked = _checked(progress, watch)
    folder = Folder(Path(output))
    capture = open_capture(plan.capture, size=plan.size)
    _claim(folder, plan, capture, resume)
    torch.manual_seed(plan.settings.seed)
    # The core brings its own threads. torch's would only spin against them: on two cores a step
    # takes ten times as long, and the tensors here are too small to gain anything from two.
    torch.set_num_threads(1)
    image_bytes, crop_bytes = cache_bytes(plan, capture, max_memory)
    capture = with_masks(plan, folder, capture, cache_bytes=image_bytes, progress=checked)
    reader = ImageReader(capture, cache_bytes=image_bytes)
    views = [capture.view_index(name) for name in plan.views]
    tests = [capture.view_index(name) for name in plan.test_views]
    plates = load_plates(capture, reader, folder, [*views, *tests], checked)
    images = TrainingImages(
        capture,
        reader,
        plates,
        max_bytes=crop_bytes,
        untrusted=untrusted_views(plan, folder, capture),
        depth=_learns_depth(plan),
    )
    spacing, color = _shared_stage(
        plan, folder, capture, reader, views, plates, images, progress, watch
    )
    run = _Run(
        plan,
        folder,
        capture,
        reader,
        views,
        tests,
        plates,
        images,
        progress,
        watch,
        spacing,
        color,
    )

    for start in range(0, len(plan.frames), FRAGMENT_FRAMES):
        labels = plan.frames[start : start + FRAGMENT_FRAMES]
        if plan.settings.model == "field":
            _train_fragment(run, labels)
        else:
            for label in labels:
                watch.check()
                _train_frame(run, label)
    folder.running.unlink(missing_ok=True)
    result = bake(plan, folder, capture, checked)
    return {**result, "seconds": time.monotonic() - started, "spacing": spacing}


def _checked(progress: ProgressCallback, watch: Watch) -> ProgressCallback:
    """Stages without steps of the optimisation can be ended wherever they report."""

    def report(state: Progress) -> None:
        progress(state)
        watch.check()

    return report


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


def _shared_stage(
    plan: Plan,
    folder: Folder,
    capture: Capture,
    reader: ImageReader,
    views: list[int],
    plates: dict[int, np.ndarray],
    images: TrainingImages,
    progress: ProgressCallback,
    watch: Watch,
) -> tuple[float, CameraColor]:
    """What all frames share: the background, the point spacing and the cameras' colours.

    Whole images of the background teach the colours best; without one, a few frames of the subject
    do.
    """
    if folder.shared.is_file():
        return float(load_tensors(folder.shared)[1]["spacing"]), load_color(folder, capture)
    report = _reporter(progress, "background", 0, 1, later=len(plan.frames))
    color = reconstruct_background(plan, folder, capture, plates, views, report, watch)
    count = min(COLOR_FRAMES, len(plan.frames))
    positions = np.linspace(0, len(plan.frames) - 1, count + 2)[1:-1].round().astype(int)
    labels = [plan.frames[i] for i in sorted(set(positions))]
    if color is None:
        return _color_stage(plan, folder, capture, reader, views, images, labels, progress, watch)
    frame = capture.frames.index(labels[0])
    spacing = initial_surface(capture, reader, frame, views, source=plan.points).spacing
    save_tensors(folder.shared, color.state_dict(), spacing=spacing)
    return spacing, color


def _color_stage(
    plan: Plan,
    folder: Folder,
    capture: Capture,
    reader: ImageReader,
    views: list[int],
    images: TrainingImages,
    labels: list[int],
    progress: ProgressCallback,
    watch: Watch,
) -> tuple[float, CameraColor]:
    """The point spacing, and the cameras' colours from the subject in a few frames."""
    color = CameraColor(len(capture.views))
    spacing = None
    log_gain, offset, weight = (torch.zeros_like(color.log_gain) for _ in range(3))
    settings = replace(plan.settings, model="explicit", steps=max(150, plan.settings.steps // 2))
    for number, label in enumerate(labels):
        frame = capture.frames.index(label)
        usable = images.usable(frame, views)
        learned = CameraColor(len(capture.views))
        # The crops around a subject are too small to tell a lens from the light.
        learned.vignetting.requires_grad_(False)
        if folder.color(label).is_file():
            tensors, metadata = load_tensors(folder.color(label))
            learned.load_state_dict(tensors)
            spacing = float(metadata["spacing"])
        else:
            points, rgb = initial_points(
                capture,
                reader,
                frame,
                views,
                source=plan.points,
                spacing=spacing,
            )
            spacing = points.spacing
            if len(usable) < 3:
                continue  # two cameras cannot tell a camera's colour from a material's
            train(
                _explicit(points, rgb, settings, inset=settings.inset),
                learned,
                Job(f"color-{label}", (frame,), (tuple(usable),)),
                images,
                settings,
                learn_color=True,
                checkpoint=folder.running,
                on_step=_reporter(
                    progress,
                    "camera colour",
                    number,
                    len(labels),
                    # The frames' own steps come after these.
                    later=len(plan.frames) * plan.settings.steps / settings.steps,
                ),
                watch=watch,
            )
            save_tensors(folder.color(label), learned.state_dict(), spacing=spacing)
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
    save_tensors(folder.shared, color.state_dict(), spacing=spacing)
    for label in labels:
        folder.color(label).unlink(missing_ok=True)
    return spacing, color


def _explicit(
    points: Points, rgb: np.ndarray, settings: TrainSettings, *, inset: float
) -> ExplicitPoints:
    return ExplicitPoints(
        moved_inwards(points, inset) if inset else points.position,
        rgb,
        points.spacing,
        sh_degree=settings.sh_degree,
        radius=settings.radius,
        density=settings.density,
    )


def _start(run: _Run, label: int) -> tuple[Points, np.ndarray, list[int]]:
    """Initial points of a frame, their colours, and the views that teach it.

    What they look like before training, as they were found, is kept in the folder.
    """
    plan = run.plan
    frame = run.capture.frames.index(label)
    points, rgb = initial_points(
        run.capture, run.reader, frame, run.views, source=plan.points, spacing=run.spacing
    )
    untrained = _explicit(points, rgb, replace(plan.settings, sh_degree=0), inset=0.0)
    splats = untrained().to_splats()
    save_splats(run.folder.initial(label), splats)
    if run.watch.preview_due():
        run.preview(label, splats)
    return points, rgb, run.images.usable(frame, run.views)


def _train_frame(run: _Run, label: int) -> None:
    plan, folder = run.plan, run.folder
    if folder.frame(label).is_file() and folder.initial(label).is_file():
        return
    frame = run.capture.frames.index(label)
    points, rgb, usable = _start(run, label)
    model = _explicit(points, rgb, plan.settings, inset=plan.settings.inset)
    psnr = train(
        model,
        run.color,
        Job(str(label), (frame,), (tuple(usable),)),
        run.images,
        plan.settings,
        checkpoint=folder.running,
        on_step=_reporter(run.progress, "frames", plan.frames.index(label), len(plan.frames)),
        watch=run.watch,
        on_preview=lambda _step: run.preview(label, _points_now(model, 0)),
    )
    run.finish(label, model().to_splats(), psnr)


def _train_fragment(run: _Run, labels: tuple[int, ...]) -> None:
    plan, folder = run.plan, run.folder
    if all(folder.frame(label).is_file() and folder.initial(label).is_file() for label in labels):
        return
    starts = [_start(run, label) for label in labels]
    everything = np.concatenate([points.position for points, _, _ in starts])
    margin = 3 * run.spacing
    bounds = np.stack([everything.min(axis=0) - margin, everything.max(axis=0) + margin])
    torch.manual_seed(plan.settings.seed)
    settings = plan.settings
    model = FieldPoints(
        [moved_inwards(points, settings.inset) for points, _, _ in starts],
        [rgb for _, rgb, _ in starts],
        run.spacing,
        bounds,
        sh_degree=settings.sh_degree,
        radius=settings.radius,
        density=settings.density,
    )
    first = plan.frames.index(labels[0])
    psnr = train(
        model,
        run.color,
        Job(
            f"fragment-{labels[0]}",
            tuple(run.capture.frames.index(label) for label in labels),
            tuple(tuple(usable) for _, _, usable in starts),
        ),
        run.images,
        settings,
        checkpoint=folder.running,
        on_step=_reporter(run.progress, "frames", first, len(plan.frames), len(labels)),
        watch=run.watch,
        on_preview=lambda step: run.preview(labels[step], _points_now(model, step)),
    )
    with torch.no_grad():
        for step, label in enumerate(labels):
            run.finish(label, model(step).to_splats(), psnr)


@torch.no_grad()
def _points_now(model: ExplicitPoints | FieldPoints, step: int) -> Splats:
    return model(step).to_splats()


def _reporter(
    progress: ProgressCallback,
    stage: str,
    first: int,
    frames: int,
    count: int = 1,
    *,
    later: float = 0.0,
):
    """Turn the steps of one job into the progress of a stage that counts frames in thousandths.

    later: how many such frames other stages will train after this one, for the time left.
    """
    started = time.monotonic()

    def report(step: int, total: int, psnr: float) -> None:
        part = step / total
        done = first + part * count
        elapsed = time.monotonic() - started
        eta = elapsed / max(part, 1e-6) * (frames + later - done) / count
        progress(Progress(stage, round(done * 1000), frames * 1000, eta, {"training_psnr": psnr}))

    return report


def bake(plan: Plan, folder: Folder, capture: Capture, progress: ProgressCallback = silent) -> dict:
    """Write the clip and the clip of the initial points from the frames' checkpoints."""
    cameras = []
    for index, view in enumerate(() if capture.moving else capture.views):
        camera = capture.camera(0, index)
        size = (camera.width, camera.height)
        trained = view.name in plan.views
        cameras.append(ClipCamera(view.name, camera.K, camera.R, camera.t, *size, trained))
    has_background = folder.background.is_file()
    settings = PeelSettings(layers=BACKGROUND_DISPLAY_LAYERS if has_background else DISPLAY_LAYERS)
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
