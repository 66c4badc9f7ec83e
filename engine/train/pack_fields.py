"""Packing a reconstruction into a clip that stores its fields, and not what they say.

Every field of the reconstruction (FRAGMENT_FRAMES frames that were trained together) becomes a
base; its frames are divided into fragments with dynamic codes of their own.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..capture.detect import open_capture
from ..clip import codebook, kplanes
from ..clip.clip import ClipInfo
from ..clip.codecs import FieldPoints as FieldEncoder
from ..clip.fragment import EncodedField, EncodedFragment
from ..clip.pack import Packed, PackSettings, refuse_own_source, write_packed
from ..clip.reader import ClipReader
from ..clip.target import Target, clip_psnr, trial_file
from ..errors import CaptureError, ClipError, PeelError
from ..progress import Progress, ProgressCallback, silent
from ..render.splats import Splats
from .checkpoint import load_field, load_splats
from .codebook import CodebookSettings
from .field_jobs import BaseJob, ChangesJob, UnitJob
from .finished import finished_plan, missing
from .footage_pool import Footage, FootagePool, processes_for
from .plan import FRAGMENT_FRAMES, Folder, Plan
from .plane_field import plane_field

log = logging.getLogger(__name__)

CODECS = (codebook.NAME, kplanes.NAME)
#: Clips that are written in search of a target, at most.
_TRIALS = 8


@dataclass(frozen=True)
class FieldPackSettings:
    """How fields are packed.

    codec: "codebook", or "kplanes" (planes as float16, the baseline). coarseness: factor of the
        steps of positions, colours and static points. prune: as in `clip.pack.PackSettings`.
    base_frames: that share a field; those of a trained one do anyway. distill_steps: for every
        frame of a field that is fitted to points.
    codes: how planes become codes. tuning: steps in which a base's codes learn from the footage.
    fragment: frames that have dynamic codes in common. dynamic: share of the codes that each
        fragment has anew, 0 for none: fields that are trained for 10 frames have a row of their
        time planes for each, and gain next to nothing (docs/clip-format.md has the measurement).
        dynamic_steps: in which dynamic codes learn.
    """

    codec: str = codebook.NAME
    coarseness: float = 1.0
    prune: float = PackSettings.prune
    base_frames: int = FRAGMENT_FRAMES
    distill_steps: int = 60
    codes: CodebookSettings = field(default_factory=CodebookSettings)
    fragment: int = 5
    tuning: int = 300
    dynamic: float = 0.0
    dynamic_steps: int = 200


def pack_fields(
    directory: Path,
    output: Path,
    settings: FieldPackSettings | None = None,
    *,
    target: Target | None = None,
    capture: Path | None = None,
    jobs: int | None = None,
    max_memory: int | None = None,
    progress: ProgressCallback = silent,
) -> Packed:
    """Write the clip of a finished reconstruction with the codec "codebook" or "kplanes".

    Where frames were trained without a field, one is fitted to their points first. target: looks
    for the coarseness that just meets it, with fields that stay what they are. capture: the
    footage, if it is not where the reconstruction found it; without it codes cannot be tuned, which
    is said. jobs: processes, None for as many as use the machine well. Raises PeelError; an older
    `output` then stays as it was.
    """
    settings, output = settings or FieldPackSettings(), Path(output)
    clip = Folder(Path(directory)).clip
    refuse_own_source(clip, output)
    packer = prepare_fields(
        directory, settings, capture=capture, jobs=jobs, max_memory=max_memory, progress=progress
    )
    if target is None:
        return packer.write(output, settings.coarseness, progress)
    return packer.write_for(output, target, progress)


def prepare_fields(
    directory: Path,
    settings: FieldPackSettings,
    *,
    capture: Path | None = None,
    jobs: int | None = None,
    max_memory: int | None = None,
    progress: ProgressCallback = silent,
) -> FieldPacker:
    """Encode all fields of a reconstruction, which takes long; arguments as of `pack_fields`."""
    if settings.codec not in CODECS:
        raise ClipError(f"no codec of fields called '{settings.codec}'", hint=" or ".join(CODECS))
    folder = Folder(Path(directory))
    plan = finished_plan(folder)
    with ClipReader(folder.clip) as reader:
        info, source_nbytes = reader.info, reader.total_nbytes
    footage = None
    if settings.codec == codebook.NAME and (settings.tuning or settings.dynamic):
        footage = _footage(folder, plan, capture, max_memory)
    size = FRAGMENT_FRAMES if plan.settings.model == "field" else settings.base_frames
    units = [plan.frames[first : first + size] for first in range(0, len(plan.frames), size)]
    parts = len(plan.frames) // settings.fragment if settings.dynamic else len(units)
    with (
        tempfile.TemporaryDirectory() as place,
        FootagePool(footage, processes_for(jobs, parts, footage)) as pool,
    ):
        per_frame = settings.prune, settings.distill_steps
        work = [UnitJob(folder.root, plan, unit, *per_frame, Path(place)) for unit in units]
        bases: list[BaseJob] = []
        worth: dict[int, np.ndarray] = {}
        for unit, made in zip(units, pool.each(work, progress, "fields"), strict=True):
            if made.errors:
                errors = ", ".join(f"{name} {error:.3f}" for name, error in made.errors.items())
                log.info(
                    "frames %d to %d: a field was fitted, errors: %s", unit[0], unit[-1], errors
                )
            worth.update(zip(unit, made.worth, strict=True))
            bases.append(BaseJob(made.path, unit, made.importance))
        shared = _encoded(bases, settings, pool, progress)
    return FieldPacker(
        folder, plan, info, source_nbytes, settings, worth, shared, footage is not None
    )


@dataclass(frozen=True, eq=False)
class FieldPacker:
    """Encoded fields, ready to be written with their points. info, source_nbytes: of the
    reconstruction's clip. worth: per frame (N,) bool, the points to keep. tuned: whether codes have
    learned from the footage."""

    folder: Folder
    plan: Plan
    info: ClipInfo
    source_nbytes: int
    settings: FieldPackSettings
    worth: dict[int, np.ndarray]
    shared: EncodedField
    tuned: bool

    def write(
        self, output: Path, coarseness: float = 1.0, progress: ProgressCallback = silent
    ) -> Packed:
        """The clip with these steps of positions, colours and static points. Raises PeelError."""
        labels = self.plan.frames

        def frames() -> Iterator[Splats]:
            for number, label in enumerate(labels):
                yield load_splats(self.folder.frame(label)).select(self.worth[label])
                progress(Progress("pack", number + 1, len(labels)))

        background = self.folder.background
        static = load_splats(background) if background.is_file() else None
        written = write_packed(
            output,
            frames(),
            self.info,
            static=static,
            encoder=FieldEncoder(self.shared).scaled(coarseness),
            packed={
                "codec": self.settings.codec,
                "coarseness": coarseness,
                "prune": self.settings.prune,
                "tuned": self.tuned,
            },
        )
        every = sum(map(len, self.worth.values())) + written.static_points
        kept = sum(written.points) + written.static_points
        return Packed(
            written,
            output.stat().st_size,
            self.source_nbytes,
            1 - kept / every if every else 0.0,
            coarseness,
        )

    def write_for(
        self, output: Path, target: Target, progress: ProgressCallback = silent
    ) -> Packed:
        """The clip whose steps just meet the target. Raises PeelError, also where none do."""
        with trial_file(output) as trial:
            written: dict[float, Packed] = {}  # what the file holds, by its coarseness

            def write(coarseness: float) -> Packed:
                if coarseness not in written:
                    written.clear()
                    written[coarseness] = self.write(trial, coarseness, progress)
                return written[coarseness]

            def measure(coarseness: float) -> float:
                packed = write(coarseness)
                if target.nbytes is not None:
                    return packed.nbytes
                with ClipReader(self.folder.clip) as original, ClipReader(trial) as coded:
                    return clip_psnr(original, coded)

            coarseness = target.factor(measure, _TRIALS)
            if coarseness is None:
                raise target.unreachable(self.folder.root)
            packed = write(coarseness)
            trial.replace(output)
            return packed


def _footage(
    folder: Folder, plan: Plan, capture: Path | None, max_memory: int | None
) -> Footage | None:
    """What codes are tuned with; None where the reconstruction's capture is gone."""
    where = Path(plan.capture) if capture is None else capture
    try:
        opened = open_capture(where, size=plan.size)
        problem = missing(plan, opened)
        if problem:
            raise CaptureError(f"{problem}, which was reconstructed", where=where)
    except PeelError as error:
        if capture is not None:
            raise
        log.warning(
            "the codes are not tuned to the footage: %s (name it with --capture)", error.what
        )
        return None
    return Footage(folder.root, replace(plan, capture=str(where.resolve())), max_memory)


def _encoded(
    bases: Sequence[BaseJob],
    settings: FieldPackSettings,
    pool: FootagePool,
    progress: ProgressCallback,
) -> EncodedField:
    if settings.codec == kplanes.NAME:
        members = [
            EncodedFragment(
                kplanes.encode_kplanes(plane_field(load_field(base.path)[0])), len(base.labels)
            )
            for base in bases
        ]
        return EncodedField(kplanes.NAME, members)
    ready = [replace(base, settings=settings.codes, steps=settings.tuning) for base in bases]
    encoded = list(pool.each(ready, progress, "codes"))
    # Without codes of their own there is nothing that fragments would differ in.
    size = settings.fragment if settings.dynamic else max(len(base.labels) for base in bases)
    fragments = [
        ChangesJob(
            base.path,
            base.labels,
            member.data,
            first,
            min(size, len(base.labels) - first),
            settings.dynamic,
            settings.dynamic_steps,
        )
        for base, member in zip(bases, encoded, strict=True)
        for first in range(0, len(base.labels), size)
    ]
    changes = pool.each(fragments, progress, "fragments")
    numbers = {base.labels: number for number, base in enumerate(bases)}
    members = [
        EncodedFragment(member, job.frames, numbers[job.labels])
        for job, member in zip(fragments, changes, strict=True)
    ]
    return EncodedField(codebook.NAME, members, encoded)
