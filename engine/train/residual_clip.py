"""From a finished reconstruction to a clip of the codec "residual"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..capture.detect import open_capture
from ..clip.codecs import FieldPoints
from ..clip.fragment import EncodedField, EncodedFragment
from ..clip.lattice import Grid
from ..clip.pack import Packed, refuse_own_source, write_packed
from ..clip.predictive import Steps, position_step
from ..clip.quantize import SH_PEAK
from ..clip.reader import ClipReader
from ..clip.residual import NAME, encode_residual
from ..clip.target import Target, clip_psnr, trial_file
from ..errors import CaptureError, ReconstructionError
from ..progress import Progress, ProgressCallback, silent
from ..render.importance import importance, worth_keeping
from ..render.settings import PeelSettings
from ..render.splats import Splats
from .checkpoint import load_splats
from .finished import finished_plan, missing, open_finished
from .plan import Folder, load_plan
from .residual import SourceFrame, TrainedFragment, train_fragment
from .residual_settings import ResidualSettings
from .run import Run

#: Most that one point counts, in means: a few that fill a picture would leave nothing to the rest.
_MOST_IMPORTANT = 5.0
#: Trainings of one fragment in search of a target, and of the whole clip, at most.
_TRIALS, _WHOLE_TRIALS = 5, 3
#: A lattice's step is written with four digits and never becomes shorter than what is asked for.
_JUST_BELOW = 1 - 1e-7


def pack_residual(
    directory: Path,
    output: Path,
    settings: ResidualSettings,
    *,
    target: Target | None = None,
    capture: Path | None = None,
    frames: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: ProgressCallback = silent,
) -> Packed:
    """Write the clip of a reconstruction with fields that are trained on its capture.

    directory: of a finished reconstruction of explicit points. target: looks for lambda and steps
    that just meet it, with the fragment in the middle of the clip, which is trained several times.
    capture: where it is now, if it has been moved. frames: labels, consecutive ones of the
    reconstruction's; default all. Raises PeelError; an older `output` then stays as it was.
    """
    folder, output = Folder(Path(directory)), Path(output)
    refuse_own_source(folder.clip, output)
    run = open_source(folder, capture, frames, max_memory=max_memory, progress=progress)
    if target is None:
        return _packed(run, output, settings, run.plan.frames, 1.0, progress)
    with trial_file(output) as trial:
        wanted = target
        for _ in range(_WHOLE_TRIALS):
            factor = _factor(run, settings, wanted, trial, progress)
            packed = _packed(run, trial, settings.scaled(factor), run.plan.frames, factor, progress)
            if target.nbytes is None or packed.nbytes <= target.nbytes:
                trial.replace(output)
                return packed
            # The other fragments are larger than the one in the middle.
            wanted = Target(nbytes=int(0.97 * wanted.nbytes * target.nbytes / packed.nbytes))
        raise target.unreachable(folder.root)


def _factor(
    run: Run, settings: ResidualSettings, target: Target, trial: Path, progress: ProgressCallback
) -> float:
    """Of the steps with which the fragment in the middle of the clip meets the target."""
    labels = run.plan.frames
    first = len(labels) // 2 // settings.gop * settings.gop
    group = labels[first : first + settings.gop]
    # A shorter one at the end of a clip is no measure of the others.
    if len(group) < settings.gop and first:
        first -= settings.gop
        group = labels[first : first + settings.gop]
    with ClipReader(run.folder.clip) as original:
        before = load_plan(run.folder).frames.index(group[0])

        def measure(factor: float) -> float:
            packed = _packed(run, trial, settings.scaled(factor), group, factor, progress)
            with ClipReader(trial) as coded:
                if target.psnr is not None:
                    return clip_psnr(original, coded, before)
                own = sum(map(coded.frame_nbytes, range(len(group))))
                return packed.nbytes + (own + coded.shared_nbytes) * (len(labels) / len(group) - 1)

        factor = target.factor(measure, _TRIALS)
    if factor is None:
        raise target.unreachable(run.folder.root)
    return factor


def _packed(
    run: Run,
    output: Path,
    settings: ResidualSettings,
    labels: Sequence[int],
    coarseness: float,
    progress: ProgressCallback,
) -> Packed:
    """Frames of a reconstruction as a clip, trained with these settings."""
    folder = run.folder
    fragments: list[TrainedFragment] = []
    for first in range(0, len(labels), settings.gop):
        group = labels[first : first + settings.gop]
        sources = [source_frame(run, label, settings) for label in group]

        def report(number: int, before: int = first) -> None:
            progress(Progress("pack", before + number + 1, len(labels)))

        fragments.append(
            train_fragment(
                sources,
                run.spacing,
                run.color,
                run.images,
                run.plan.settings,
                settings,
                report=report,
            )
        )
    kept = sum(len(frame.source.splats) for fragment in fragments for frame in fragment.frames)
    every = load_plan(folder).frames
    with ClipReader(folder.clip) as reader:
        info, static, source_nbytes = reader.info, None, reader.total_nbytes
        before = sum(info.points[every.index(label)] for label in labels)
        if info.static_points:
            static = reader.packed(0)[1].unpack()
        written = write_packed(
            output,
            (
                fragment.splats(step)
                for fragment in fragments
                for step in range(len(fragment.frames))
            ),
            info,
            static=static,
            encoder=encoder_of(fragments),
            packed={"codec": NAME, "lambda": settings.rate_weight, "gop": settings.gop},
            first_frame=labels[0],
        )
    nbytes = output.stat().st_size
    pruned = 1 - kept / before if before else 0.0
    return Packed(written, nbytes, source_nbytes, pruned, coarseness)


def open_source(
    folder: Folder,
    capture: Path | None = None,
    frames: Sequence[int] | None = None,
    *,
    max_memory: int | None = None,
    progress: ProgressCallback = silent,
) -> Run:
    """A finished reconstruction with its capture's pictures, cameras' colours and background."""
    plan = finished_plan(folder, capture)
    if frames is not None:
        unknown = [label for label in frames if label not in plan.frames]
        if unknown or not frames:
            raise ReconstructionError(
                f"frame {unknown[0]} was not reconstructed" if unknown else "no frames to pack",
                where=folder.root,
                hint=f"It has frames {plan.frames[0]} to {plan.frames[-1]}",
            )
        plan = replace(plan, frames=tuple(frames))
    if plan.settings.model != "explicit":
        raise ReconstructionError(
            "only a reconstruction of explicit points can be packed like this",
            where=folder.root,
            hint="Reconstruct with --model explicit, or pack with --codec predictive",
        )
    opened = open_capture(plan.capture, size=plan.size)
    problem = missing(plan, opened)
    if problem:
        raise CaptureError(
            f"{problem}, which was reconstructed",
            where=opened.path,
            hint="Name the footage of this reconstruction with --capture",
        )
    # On the CPU: of the peel of one small frame, what a GPU saves goes into copies.
    return open_finished(plan, folder, opened, max_memory=max_memory, progress=progress)


def source_frame(run: Run, label: int, settings: ResidualSettings) -> SourceFrame:
    """A reconstructed frame's points that cameras see, on the grid of its positions."""
    frame = run.capture.frames.index(label)
    cameras = [run.capture.camera(frame, view) for view in run.views]
    splats = load_splats(run.folder.frame(label))
    splats = splats.select(worth_keeping(splats, cameras, PeelSettings(), settings.prune))
    if len(splats) == 0:
        raise ReconstructionError(f"no camera sees a point of frame {label}")
    grid = Grid.of(splats.position, position_step(splats, Steps(position=settings.position)))
    splats = splats.select(grid.order)
    weight = importance(splats, cameras, PeelSettings())
    first = np.flatnonzero(np.diff(grid.codes, prepend=grid.codes[:1] + np.uint64(1)))
    splats, weight = merged(splats, weight, first)
    splats = Splats(grid.positions[first], splats.radius, splats.density, splats.sh)
    cells = grid.cells[first].astype(np.int64)
    weight = np.minimum(weight / max(weight.mean(), 1e-300), _MOST_IMPORTANT)
    views = tuple(run.images.usable(frame, run.views))
    if not views:
        raise ReconstructionError(f"no usable image in frame {label}")
    return SourceFrame(splats, cells, grid.step, weight, frame, views)


def merged(splats: Splats, weight: np.ndarray, first: np.ndarray) -> tuple[Splats, np.ndarray]:
    """Runs of points as one point each: they are at the same place of a grid. weight: (N,), pixels
    that each fills. first: index of the first point of every run, ascending."""
    total = np.add.reduceat(weight, first)
    even = np.add.reduceat(np.ones(len(weight)), first)
    run = np.repeat(np.arange(len(first)), even.astype(int))
    share = np.where(total[run] > 0, weight / np.maximum(total[run], 1e-300), 1 / even[run])

    def mean(values: np.ndarray) -> np.ndarray:
        columns = values.reshape(len(values), -1) * share[:, None]
        return np.add.reduceat(columns, first).reshape(len(first), *values.shape[1:])

    # What all of them let through, as one disk as large as their mean.
    clear = np.exp(np.add.reduceat(np.log1p(-np.minimum(splats.density, 0.999)), first))
    merged = Splats(
        splats.position[first], np.sqrt(mean(splats.radius**2)), 1 - clear, mean(splats.sh)
    )
    return merged, total


def encoder_of(fragments: Sequence[TrainedFragment]) -> FieldPoints:
    """The encoder of a clip of these fragments, with the lattices that they were trained for."""
    members = [
        EncodedFragment(
            encode_residual(
                fragment.layout, fragment.network, [frame.differences for frame in fragment.frames]
            ),
            len(fragment.frames),
        )
        for fragment in fragments
    ]
    steps = []
    for fragment in fragments:
        for step, frame in enumerate(fragment.frames):
            radius = float(np.median(fragment.splats(step).radius))
            steps.append(
                Steps(
                    position=frame.source.grid_step / radius * _JUST_BELOW,
                    color=frame.color_step * SH_PEAK[0] * _JUST_BELOW,
                    radius=frame.radius_step * _JUST_BELOW,
                )
            )
    return FieldPoints(EncodedField(NAME, members), frame_steps=tuple(steps), own_radius=True)
