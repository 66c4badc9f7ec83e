"""The work that bases and fragments of the codebook codec make, in processes of their own.

Bases know nothing of each other, and fragments nothing but their base; a process opens the footage
once for all its jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ..capture.detect import open_capture
from ..clip.codebook import Changes, decode_base, encode_base, encode_changes
from ..clip.field_shape import shape_header
from ..clip.fragment import Member
from ..errors import PeelError
from ..progress import Progress, ProgressCallback
from .checkpoint import load_field
from .codebook import CodebookSettings, build_base
from .finished import open_finished
from .plan import Folder, Plan
from .plane_field import plane_field
from .run import Run
from .tune_codes import dynamic_codes, tune_base


@dataclass(frozen=True)
class Footage:
    """The reconstruction whose images codes learn from, as every process opens it."""

    root: Path
    plan: Plan
    max_memory: int | None


@dataclass(frozen=True, eq=False)
class BaseJob:
    """Codebooks for the field at `path`. labels: of its frames. importance: of texels, per group of
    planes. steps: of tuning."""

    path: Path
    labels: tuple[int, ...]
    importance: tuple[np.ndarray, ...]
    settings: CodebookSettings = field(default_factory=CodebookSettings)
    steps: int = 0

    def run(self, footage: Footage | None) -> Member:
        model, _ = load_field(self.path)
        planes = plane_field(model)
        base = build_base(planes, self.importance, self.settings)
        if footage and self.steps:
            base = tune_base(opened(footage), model, self.labels, base, self.steps)
        return encode_base(base, shape_header(planes))


@dataclass(frozen=True, eq=False)
class ChangesJob:
    """Dynamic codes for `frames` frames of a field, from its step `first` on. base: encoded.
    share: of the codes. steps: of learning."""

    path: Path
    labels: tuple[int, ...]
    base: bytes
    first: int
    frames: int
    share: float
    steps: int

    def run(self, footage: Footage | None) -> Member:
        base = decode_base(self.base, "the base")
        if footage is None or not self.share or not self.steps:
            nothing = [np.zeros(len(group.classes), dtype=bool) for group in base.groups]
            codes = [np.zeros((0, base.shape.channels), dtype=np.int16) for _ in base.groups]
            return encode_changes(base, Changes(self.first, nothing, codes))
        model, _ = load_field(self.path)
        changes = dynamic_codes(
            opened(footage),
            model,
            self.labels,
            base,
            self.first,
            self.frames,
            share=self.share,
            steps=self.steps,
        )
        return encode_changes(base, changes)


@lru_cache(maxsize=1)
def opened(footage: Footage) -> Run:
    """The images of a reconstruction, ready to learn from. Raises PeelError."""
    plan = footage.plan
    capture = open_capture(plan.capture, size=plan.size)
    run = open_finished(plan, Folder(footage.root), capture, max_memory=footage.max_memory)
    run.color.requires_grad_(False)
    return run


def in_processes(
    jobs: Sequence[BaseJob | ChangesJob],
    footage: Footage | None,
    processes: int,
    progress: ProgressCallback,
    stage: str,
) -> Iterator[Member]:
    """What the jobs make, in their order. Raises PeelError."""
    processes = max(1, min(processes, len(jobs)))
    if processes == 1:
        for number, job in enumerate(jobs):
            yield job.run(footage)
            progress(Progress(stage, number + 1, len(jobs)))
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_work, job, footage) for job in jobs]
        try:
            for number, future in enumerate(waiting):
                member, problem = future.result()
                if problem is not None:
                    raise PeelError(problem[0], where=problem[1], hint=problem[2])
                yield member
                progress(Progress(stage, number + 1, len(jobs)))
        finally:
            for future in waiting:
                future.cancel()


def _work(job: BaseJob | ChangesJob, footage: Footage | None):
    """A job's member, or what went wrong: errors with named parts do not survive the way back."""
    try:
        return job.run(footage), None
    except PeelError as error:
        return None, (error.what, error.where, error.hint)
