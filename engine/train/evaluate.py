"""Scores of a reconstruction on its held-out views, from the clip that people will play."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ..capture.capture import Capture
from ..capture.images import ImageReader
from ..clip.reader import ClipReader
from ..errors import ReconstructionError
from ..model.camera_color import CameraColor
from ..progress import Progress, ProgressCallback, silent
from ..render.backend import Instance, render_scene
from ..render.camera import Camera
from ..render.core import IDENTITY
from ..render.settings import DEFAULT_SAMPLES, PeelSettings
from ..render.splats import PackedSplats, Splats
from ..render.window import Window
from .cameras import corrected, load_color
from .masks import open_planned
from .metrics import REGIONS, SCORE_REACH_PX, Score, gradients, psnr, region_of, ssim, summarize
from .perceptual import flip_error, load_lpips
from .plan import Folder, load_plan
from .plates import composite, load_plates
from .run import Run
from .settings import display_settings

STAGES = ("final", "initial")


def evaluate(
    directory: Path,
    *,
    views: list[str] | None = None,
    region: str = "full",
    stage: str = "final",
    clip: Path | None = None,
    flip: bool = False,
    pictures: Path | None = None,
    only: Collection[tuple[str, int]] | None = None,
    progress: ProgressCallback = silent,
) -> dict:
    """Render every frame of the given views (default: the held-out ones) and score it.

    region: "full" or "mask" (see metrics). stage: "final" or "initial", the clip of the untrained
    points. clip: another clip of the same frames, as `pack` makes it. flip: measure that, too,
    which takes longer than everything else. pictures: folder for PNGs, ground truth beside the
    render. only: the images to look at, (view, frame), of all these.
    A clip without a background is composited over the view's clean plate, or over black where there
    is none. An unseen camera has the colours of the rig's mean camera, and looks where the capture
    says. Returns the stable form of metrics.summarize.
    """
    if region not in REGIONS:
        raise ReconstructionError(f"no region called '{region}'", hint="Use full or mask")
    folder = Folder(Path(directory))
    plan = load_plan(folder)
    capture = corrected(open_planned(plan, folder), folder)
    # Every image is looked at once; only the maps of a lens are worth keeping.
    largest = max(view.width * view.height for view in capture.views)
    reader = ImageReader(capture, cache_bytes=(64 << 20) + 16 * largest)
    names = list(views or plan.test_views)
    if not names:
        raise ReconstructionError(
            "no held-out views to evaluate",
            where=folder.root,
            hint="Reconstruct with --test-views, or name some with --views",
        )
    indices = [capture.view_index(name) for name in names]
    gone = [label for label in plan.frames if label not in capture.frames]
    if gone:
        raise ReconstructionError(
            f"frame {gone[0]} is not in the capture any more",
            where=capture.path,
            hint="Put its files back, or reconstruct again",
        )
    color = load_color(folder, capture)
    path = clip or (folder.clip if stage == "final" else folder.initial_clip)
    scores: list[Score] = []
    skipped: list[dict] = []
    seconds = 0.0
    with ClipReader(path) as opened:
        if opened.info.frame_count != len(plan.frames):
            raise ReconstructionError(
                f"a clip of {opened.info.frame_count} frames, not of {len(plan.frames)}",
                where=path,
                hint="Name a clip that was packed from this reconstruction",
            )
        modelled = opened.info.static_points > 0
        plates = {} if modelled else load_plates(capture, reader, folder, indices)
        wanted = [
            [view for view in indices if only is None or (capture.views[view].name, label) in only]
            for label in plan.frames
        ]
        total = sum(map(len, wanted))
        for step, label in enumerate(plan.frames):
            frame = capture.frames.index(label)
            points = opened.packed(step) if wanted[step] else []
            for view in wanted[step]:
                name = capture.views[view].name
                truth, area, reason = _truth(capture, reader, frame, view, region)
                if truth is None:
                    skipped.append({"view": name, "frame": label, "reason": reason})
                    continue
                begun = time.perf_counter()
                camera = capture.camera(frame, view)
                picture = _picture(points, camera, color, opened.info.settings)
                seconds += time.perf_counter() - begun
                picture = composite(picture, plates.get(view))
                # What is scored is what an 8-bit file would hold.
                picture = np.round(picture * 255).astype(np.float32) / 255
                scores.append(score(name, label, picture, truth, area, flip=flip))
                if pictures is not None:
                    save_comparison(pictures / f"{name}_{label:06d}.png", truth, picture)
                progress(Progress("evaluate", len(scores) + len(skipped), total))
    if not scores:
        raise ReconstructionError(
            "nothing to compare: " + "; ".join(sorted({entry["reason"] for entry in skipped})),
            where=folder.root,
            hint="Name views that have images (and masks for --region mask)",
        )
    return summarize(
        scores,
        region,
        stage=stage,
        camera_color="mean",
        samples=DEFAULT_SAMPLES,
        background="model" if modelled else _background(plates, indices),
        skipped=skipped,
        render_seconds_per_image=seconds / len(scores),
    )


def _picture(
    points: Sequence[Splats | PackedSplats],
    camera: Camera,
    color: CameraColor,
    settings: PeelSettings,
) -> np.ndarray:
    """What the rig's mean camera would see in a final render, (H, W, 4) premultiplied."""
    scene = [Instance(part, IDENTITY, id=0) for part in points]
    rgba = torch.from_numpy(render_scene(scene, camera, settings, samples=DEFAULT_SAMPLES).rgba)
    rgba[..., :3] = color(None, rgba[..., :3], rgba[..., 3:], camera)
    return rgba.numpy()


def held_out_pictures(
    run: Run, splats: Splats, frame: int, region: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]]:
    """What the held-out views show of a frame's points: name, picture, truth, and the area that
    counts, for every view that can be scored; (H, W, 3) in [0, 1], (H, W) bool or None.

    Where not all counts, it is cut out: scores are the same and most of the drawing is saved. The
    background of the run lies behind the points, or where it has none a clean plate or black.
    """
    scene = (splats,) if run.background is None else (splats, run.background)
    for view in run.tests:
        truth, area, _ = _truth(run.capture, run.reader, frame, view, region)
        if truth is None:
            continue
        camera = run.capture.camera(frame, view)
        plate = run.plates.get(view) if run.background is None else None
        if area is not None:
            cut = _window(area)
            camera = camera.crop(cut.x, cut.y, cut.width, cut.height)
            part = np.s_[cut.y : cut.y + cut.height, cut.x : cut.x + cut.width]
            truth, area, plate = truth[part], area[part], None if plate is None else plate[part]
        picture = _picture(scene, camera, run.color, display_settings(len(scene) > 1))
        yield run.capture.views[view].name, composite(picture, plate), truth, area


def _window(area: np.ndarray) -> Window:
    """Around all that is true in (H, W) bool, as far as the scores look."""
    rows, columns = (np.flatnonzero(area.any(axis=axis)) for axis in (1, 0))
    top, left = max(0, rows[0] - SCORE_REACH_PX), max(0, columns[0] - SCORE_REACH_PX)
    bottom = min(area.shape[0], rows[-1] + 1 + SCORE_REACH_PX)
    right = min(area.shape[1], columns[-1] + 1 + SCORE_REACH_PX)
    return Window(int(left), int(top), int(right - left), int(bottom - top))


def score(
    view: str,
    frame: int,
    picture: np.ndarray,
    truth: np.ndarray,
    area: np.ndarray | None,
    *,
    flip: bool = False,
) -> Score:
    """One picture against the truth, (H, W, 3) in [0, 1], inside `area` or everywhere."""
    return Score(
        view,
        frame,
        psnr(picture, truth, area),
        ssim(picture, truth, area),
        _lpips(picture, truth, area),
        flip_error(picture, truth, area) if flip else None,
        *gradients(picture, truth, area),
    )


def _truth(capture: Capture, reader: ImageReader, frame: int, view: int, region: str):
    """(picture, area, None), or (None, None, reason) where this image does not count."""
    if (frame, view) not in capture.images:
        return None, None, "no image"
    area = None
    if region == "mask":
        mask = reader.mask(frame, view)
        if mask is None:
            return None, None, "no mask"
        area = region_of(mask)
        if area is None:
            return None, None, "mask of less than 100 px"
    return reader.image(frame, view).astype(np.float32) / 255, area, None


def _background(plates: dict[int, np.ndarray], indices: list[int]) -> str:
    found = sum(view in plates for view in indices)
    if found == len(indices):
        return "clean plate"
    return "black" if found == 0 else "clean plate, black where a view has none"


def _lpips(picture: np.ndarray, truth: np.ndarray, area: np.ndarray | None) -> float | None:
    network = load_lpips()
    if network is None:
        return None
    if area is not None:
        picture = np.where(area[..., None], picture, truth)
    pair = [torch.from_numpy(np.float32(i)).permute(2, 0, 1)[None] for i in (picture, truth)]
    with torch.no_grad():
        return float(network(*pair))


def save_comparison(path: Path, truth: np.ndarray, picture: np.ndarray) -> None:
    """Ground truth, render and four times their difference side by side, as one PNG."""
    from ..render.files import save_png

    error = np.clip(np.abs(picture - truth) * 4, 0, 1)
    save_png(path, np.concatenate([truth, picture, error], axis=1))
