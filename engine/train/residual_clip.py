"""From a finished reconstruction to a clip of the codec "residual"."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from ..progress import ProgressCallback, silent
from ..render.importance import importance, worth_keeping
from ..render.settings import PeelSettings
from ..render.splats import Splats
from .checkpoint import load_splats, save_splats
from .finished import finished_plan, missing
from .footage_pool import Footage, FootagePool, opened, processes_for
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
    jobs: int | None = None,
    max_memory: int | None = None,
    progress: ProgressCallback = silent,
) -> Packed:
    """Write the clip of a reconstruction with fields that are trained on its capture.

    directory: of a finished reconstruction of explicit points. target: looks for lambda and steps
    that just meet it, with the fragment in the middle of the clip, which is trained several times.
    capture: where it is now, if it has been moved. frames: labels, consecutive ones of the
    reconstruction's; default all. jobs: processes that train fragments, None for as many as use the
    machine well. Raises PeelError; an older `output` then stays as it was.
    """
    folder, output = Folder(Path(directory)), Path(output)
    refuse_own_source(folder.clip, output)
    footage = source_footage(folder, capture, frames, max_memory=max_memory)
    labels = footage.plan.frames
    processes = processes_for(jobs, math.ceil(len(labels) / settings.gop), footage)
    with FootagePool(footage, processes) as pool:
        source = _Source(folder, labels, pool)
        if target is None:
            return source.packed(output, settings, labels, 1.0, progress)
        with trial_file(output) as trial:
            wanted = target
            for _ in range(_WHOLE_TRIALS):
                factor = source.factor(settings, wanted, trial, progress)
                scaled = settings.scaled(factor)
                packed = source.packed(trial, scaled, labels, factor, progress)
                if target.nbytes is None or packed.nbytes <= target.nbytes:
                    trial.replace(output)
                    return packed
                # The other fragments are larger than the one in the middle.
                wanted = Target(nbytes=int(0.97 * wanted.nbytes * target.nbytes / packed.nbytes))
            raise target.unreachable(folder.root)


@dataclass(frozen=True, eq=False)
class FragmentJob:
    """Frames, by their labels, that are trained one after the other."""

    labels: tuple[int, ...]
    settings: ResidualSettings

    def run(self, footage: Footage) -> TrainedFragment:
        run = opened(footage)
        sources = [source_frame(run, label, self.settings) for label in self.labels]
        return train_fragment(
            sources, run.spacing, run.color, run.images, run.plan.settings, self.settings
        )


@dataclass(frozen=True, eq=False)
class _Source:
    """A finished reconstruction, the labels of its frames to be packed, and who trains them."""

    folder: Folder
    labels: Sequence[int]
    pool: FootagePool

    def factor(
        self, settings: ResidualSettings, target: Target, trial: Path, progress: ProgressCallback
    ) -> float:
        """Of the steps with which the fragment in the middle of the clip meets the target."""
        labels = self.labels
        first = len(labels) // 2 // settings.gop * settings.gop
        group = labels[first : first + settings.gop]
        # A shorter one at the end of a clip is no measure of the others.
        if len(group) < settings.gop and first:
            first -= settings.gop
            group = labels[first : first + settings.gop]
        with ClipReader(self.folder.clip) as original:
            before = load_plan(self.folder).frames.index(group[0])

            def measure(factor: float) -> float:
                packed = self.packed(trial, settings.scaled(factor), group, factor, progress)
                with ClipReader(trial) as coded:
                    if target.psnr is not None:
                        return clip_psnr(original, coded, before)
                    own = sum(map(coded.frame_nbytes, range(len(group))))
                    rest = len(labels) / len(group) - 1
                    return packed.nbytes + (own + coded.shared_nbytes) * rest

            factor = target.factor(measure, _TRIALS)
        if factor is None:
            raise target.unreachable(self.folder.root)
        return factor

    def packed(
        self,
        output: Path,
        settings: ResidualSettings,
        labels: Sequence[int],
        coarseness: float,
        progress: ProgressCallback,
    ) -> Packed:
        """Frames of the reconstruction as a clip, trained with these settings."""
        starts = range(0, len(labels), settings.gop)
        jobs = [FragmentJob(tuple(labels[i : i + settings.gop]), settings) for i in starts]
        every = load_plan(self.folder).frames
        stored: list[Path] = []
        kept = 0

        def trained(place: Path) -> Iterator[TrainedFragment]:
            """Fragments one by one. Their points wait on the disk: a long clip has many."""
            nonlocal kept
            for part in self.pool.each(jobs, progress, "pack"):
                for step, frame in enumerate(part.frames):
                    kept += len(frame.source.splats)
                    stored.append(place / f"{len(stored):06d}.safetensors")
                    save_splats(stored[-1], part.splats(step))
                yield part

        with (
            tempfile.TemporaryDirectory() as place,
            ClipReader(self.folder.clip) as reader,
        ):
            encoder = encoder_of(trained(Path(place)))
            info, source_nbytes = reader.info, reader.total_nbytes
            before = sum(info.points[every.index(label)] for label in labels)
            written = write_packed(
                output,
                map(load_splats, stored),
                info,
                static=reader.packed(0)[1].unpack() if info.static_points else None,
                encoder=encoder,
                packed={"codec": NAME, "lambda": settings.rate_weight, "gop": settings.gop},
                first_frame=labels[0],
            )
        pruned = 1 - kept / before if before else 0.0
        return Packed(written, output.stat().st_size, source_nbytes, pruned, coarseness)


def source_footage(
    folder: Folder,
    capture: Path | None = None,
    frames: Sequence[int] | None = None,
    *,
    max_memory: int | None = None,
) -> Footage:
    """The footage of a finished reconstruction of explicit points. Raises PeelError."""
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
    found = open_capture(plan.capture, size=plan.size)
    problem = missing(plan, found)
    if problem:
        raise CaptureError(
            f"{problem}, which was reconstructed",
            where=found.path,
            hint="Name the footage of this reconstruction with --capture",
        )
    # On the CPU: of the peel of one small frame, what a GPU saves goes into copies.
    return Footage(folder.root, plan, max_memory, device="cpu")


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


def encoder_of(fragments: Iterable[TrainedFragment]) -> FieldPoints:
    """The encoder of a clip of these fragments, with the lattices that they were trained for."""
    members, steps = [], []
    for fragment in fragments:
        differences = [frame.differences for frame in fragment.frames]
        member = encode_residual(fragment.layout, fragment.network, differences)
        members.append(EncodedFragment(member, len(fragment.frames)))
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
