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
from ..clip.codecs import FieldPoints as FieldEncoder
from ..clip.fragment import EncodedField, EncodedFragment
from ..clip.pack import Packed
from ..clip.reader import ClipReader
from ..clip.writer import write_clip
from ..errors import CaptureError, ClipError, PeelError, ReconstructionError
from ..progress import Progress, ProgressCallback, silent
from ..render.importance import importance, visibility
from ..render.splats import Splats
from .checkpoint import load_field, load_splats, load_tensors, save_field
from .codebook import CodebookSettings
from .distill import distill
from .field_jobs import BaseJob, ChangesJob, Footage, in_processes
from .frames import Unit
from .plan import FRAGMENT_FRAMES, Folder, Plan, load_plan
from .plane_field import plane_field

log = logging.getLogger(__name__)

CODECS = (codebook.NAME, kplanes.NAME)


@dataclass(frozen=True)
class FieldPackSettings:
    """How fields are packed.

    codec: "codebook", or "kplanes" (planes as float16, the baseline). coarseness: factor of the
        steps of positions, colours and static points. prune: as in `clip.pack.PackSettings`.
    codes: how planes become codes. fragment: frames that have dynamic codes in common. tuning:
        steps in which a base's codes learn from the footage. dynamic: share of the codes that each
        fragment has anew. dynamic_steps: in which these learn.
    """

    codec: str = codebook.NAME
    coarseness: float = 1.0
    prune: float = 0.01
    codes: CodebookSettings = field(default_factory=CodebookSettings)
    fragment: int = 5
    tuning: int = 300
    dynamic: float = 0.1
    dynamic_steps: int = 200


def pack_fields(
    directory: Path,
    output: Path,
    settings: FieldPackSettings | None = None,
    *,
    capture: Path | None = None,
    jobs: int = 1,
    max_memory: int = 4 << 30,
    progress: ProgressCallback = silent,
) -> Packed:
    """Write the clip of a finished reconstruction with the codec "codebook" or "kplanes".

    Where frames were trained without a field, one is fitted to their points first. capture: the
    footage, if it is not where the reconstruction found it; without it codes cannot be tuned, which
    is said. jobs: processes. Raises PeelError; an older `output` then stays as it was.
    """
    settings = settings or FieldPackSettings()
    if settings.codec not in CODECS:
        raise ClipError(f"no codec of fields called '{settings.codec}'", hint=" or ".join(CODECS))
    folder, output = Folder(Path(directory)), Path(output)
    plan = load_plan(folder)
    if not folder.clip.is_file():
        raise ReconstructionError(
            "the reconstruction is not finished", where=folder.root, hint="Go on with --resume"
        )
    if output.exists() and output.samefile(folder.clip):
        raise ClipError(
            "a clip cannot be packed onto itself", where=output, hint="Choose another output"
        )
    with ClipReader(folder.clip) as reader:
        info, source_nbytes = reader.info, reader.total_nbytes
    cameras = [camera.camera() for camera in info.cameras if camera.train]
    footage = None
    if settings.codec == codebook.NAME and (settings.tuning or settings.dynamic):
        footage = _footage(folder, plan, capture, max_memory)
    units = [
        plan.frames[first : first + FRAGMENT_FRAMES]
        for first in range(0, len(plan.frames), FRAGMENT_FRAMES)
    ]
    with tempfile.TemporaryDirectory() as place:
        bases: list[BaseJob] = []
        kept: dict[int, Splats] = {}
        before = 0
        for number, unit in enumerate(units):
            frames = [load_splats(folder.frame(label)) for label in unit]
            before += sum(map(len, frames))
            if settings.prune > 0 and cameras:
                frames = [
                    splats.select(visibility(splats, cameras, info.settings) >= settings.prune)
                    for splats in frames
                ]
            kept |= dict(zip(unit, frames, strict=True))
            weights = [
                importance(splats, cameras, info.settings) if cameras else np.ones(len(splats))
                for splats in frames
            ]
            path = _field(folder, plan, unit, frames, weights, Path(place))
            bases.append(BaseJob(path, unit, tuple(frames), tuple(weights)))
            progress(Progress("fields", number + 1, len(units)))
        shared = _encoded(bases, settings, footage, jobs, progress)
    static = load_splats(folder.background) if folder.background.is_file() else None

    def frames() -> Iterator[Splats]:
        for number, label in enumerate(plan.frames):
            yield kept.pop(label)
            progress(Progress("pack", number + 1, len(plan.frames)))

    after = sum(map(len, kept.values()))
    written = write_clip(
        output,
        frames(),
        fps=info.fps,
        cameras=info.cameras,
        settings=info.settings,
        provenance={
            **info.provenance,
            "packed": {
                "codec": settings.codec,
                "coarseness": settings.coarseness,
                "prune": settings.prune,
                "tuned": footage is not None,
            },
        },
        first_frame=info.first_frame,
        up=info.up,
        static=static,
        encoder=FieldEncoder(shared).scaled(settings.coarseness),
    )
    pruned = 1 - after / before if before else 0.0
    nbytes = output.stat().st_size
    return Packed(written, nbytes, source_nbytes, pruned, settings.coarseness)


def _footage(folder: Folder, plan: Plan, capture: Path | None, max_memory: int) -> Footage | None:
    """What codes are tuned with; None where the reconstruction's capture is gone."""
    where = Path(plan.capture) if capture is None else capture
    try:
        opened = open_capture(where, size=plan.size)
        missing = [name for name in plan.views if name not in {v.name for v in opened.views}]
        missing += [str(label) for label in plan.frames if label not in opened.frames]
        if missing:
            raise CaptureError(
                f"it has no {missing[0]}, which the reconstruction was made from", where=where
            )
    except PeelError as error:
        if capture is not None:
            raise
        log.warning(
            "the codes are not tuned to the footage: %s (name it with --capture)", error.what
        )
        return None
    return Footage(folder.root, replace(plan, capture=str(where.resolve())), max_memory)


def _field(
    folder: Folder,
    plan: Plan,
    unit: Unit,
    frames: Sequence[Splats],
    weights: Sequence[np.ndarray],
    place: Path,
) -> Path:
    """The checkpoint of a unit's field, which is made from its points where there is none."""
    path = folder.field(unit[0])
    if path.is_file() and plan.settings.model == "field":
        _, labels = load_field(path)
        if labels == tuple(unit):
            return path
    spacing = float(load_tensors(folder.shared)[1]["spacing"])
    distilled = distill(frames, weights, spacing, plan.settings)
    errors = ", ".join(f"{name} {error:.3f}" for name, error in distilled.errors.items())
    log.info("frames %d to %d: a field was fitted, errors: %s", unit[0], unit[-1], errors)
    path = place / f"{unit[0]:06d}.safetensors"
    save_field(path, distilled.model, unit)
    return path


def _encoded(
    bases: Sequence[BaseJob],
    settings: FieldPackSettings,
    footage: Footage | None,
    jobs: int,
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
    encoded = list(in_processes(ready, footage, jobs, progress, "codes"))
    fragments = [
        ChangesJob(
            base.path,
            base.labels,
            member.data,
            first,
            min(settings.fragment, len(base.labels) - first),
            settings.dynamic,
            settings.dynamic_steps,
        )
        for base, member in zip(bases, encoded, strict=True)
        for first in range(0, len(base.labels), settings.fragment)
    ]
    changes = in_processes(fragments, footage, jobs, progress, "fragments")
    numbers = {base.labels: number for number, base in enumerate(bases)}
    members = [
        EncodedFragment(member, job.frames, numbers[job.labels])
        for job, member in zip(fragments, changes, strict=True)
    ]
    return EncodedField(codebook.NAME, members, encoded)
