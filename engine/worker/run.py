"""One reconstruction from a plan to scores, as the worker and `peel4d reconstruct` run it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PeelError, ReconstructionError
from ..machine import machine_bytes
from ..progress import ProgressCallback
from .faults import explain
from .memory import peak_bytes

if TYPE_CHECKING:
    from ..train.plan import Plan
    from ..train.watch import Watch


def plan_to_resume(directory: Path) -> Plan:
    """The plan that a folder was started with. Raises ReconstructionError where there is none, and
    CaptureError when its capture is gone."""
    from ..capture.detect import open_capture
    from ..train.plan import Folder, fingerprint, load_plan

    plan = load_plan(Folder(directory))
    # That the capture is still the same is for `reconstruct` to judge.
    return replace(plan, fingerprint=fingerprint(open_capture(plan.capture, size=plan.size)))


@dataclass(frozen=True)
class Resources:
    """What a reconstruction may use.

    max_memory, max_vram: bytes of the machine's memory and of the GPU's, for all processes
    together; None for a common size and for what is free. device: see `training_device`. jobs:
    processes that train frames, None for as many as use the machine well. time_budget: seconds, see
    `reconstruct`.
    """

    max_memory: int | None = None
    max_vram: int | None = None
    device: str = "auto"
    jobs: int | None = None
    time_budget: float | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Resources:
        """What the arguments of `add_resources` say."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


def run_plan(
    plan: Plan,
    output: Path,
    *,
    resume: bool,
    resources: Resources,
    progress: ProgressCallback,
    watch: Watch | None = None,
) -> dict:
    """Train, bake and score `plan` into the folder `output` and write its metrics.json.

    Returns the fields of the event "done". Raises PeelError; a lack of memory or space is one, too.
    """
    with explained(output):  # loading torch can fail for lack of memory, too
        from ..train.evaluate import evaluate
        from ..train.frames import train_in_turn, units_left
        from ..train.plan import Folder
        from ..train.reconstruct import reconstruct
        from ..train.records import write_json
        from ..train.run import DEFAULT_MEMORY
        from ..train.watch import UNWATCHED
        from .frame_pool import FramePool

        watch = watch or UNWATCHED
        memory, device = resources.max_memory or DEFAULT_MEMORY, resources.device
        jobs, share = _processes(resources, len(units_left(plan, Folder(output))))
        own_pool = nullcontext()
        if jobs > 1:
            own_pool = FramePool(output, jobs, max_memory=memory, max_vram=share, device=device)
        with own_pool as pool:
            if pool:
                watch.accompany(pool.pids)
            result = reconstruct(
                plan,
                output,
                resume=resume,
                max_memory=memory,
                device=device,
                time_budget=resources.time_budget or math.inf,
                progress=progress,
                watch=watch,
                train_frames=pool.train if pool else train_in_turn,
            )
            others = pool.memory_bytes if pool else 0
        watch.accompany(())
        scores = {}
        for stage in ("initial", "final") if plan.test_views else ():
            for region in ("mask", "full"):
                watch.check()
                try:
                    value = evaluate(output, region=region, stage=stage)
                except ReconstructionError:
                    continue  # held-out views without images or masks cannot be scored
                scores[f"{stage}_{region}"] = value
        own = peak_bytes()
        result["jobs"] = jobs
        result["peak_memory_bytes"] = None if own is None else own + others
        folder = Folder(output)
        write_json(folder.metrics, {**result, "scores": scores})
        means = {name: value["mean"] for name, value in scores.items()}
        return {"output": str(folder.root), "clip": str(folder.clip), **result, "scores": means}


def _processes(resources: Resources, units: int) -> tuple[int, int | None]:
    """How many processes train so many units, and bytes of the GPU for each where they are limited:
    this one is then, too. Raises ReconstructionError where there is no such device."""
    from ..train.run import limit_vram, may_use_gpu, training_device, usable_vram
    from .frame_pool import jobs_for

    def count(vram: int | None, *, gpu: bool) -> int:
        memory = resources.max_memory or machine_bytes()
        return jobs_for(resources.jobs, units, memory=memory, gpu=gpu, vram=vram)

    jobs, share = 0, None
    # How much of the GPU a process gets has to be said before it opens it.
    if may_use_gpu(resources.device):
        vram = usable_vram(resources.max_vram)
        jobs = count(vram, gpu=True)
        if resources.max_vram is not None and vram is not None:
            # The process that starts the others trains the background, and keeps it.
            share = vram // (jobs + 1 if jobs > 1 else 1)
            limit_vram(share)
    if training_device(resources.device).type == "cuda":
        return jobs, share
    return count(None, gpu=False), None


@contextmanager
def explained(output: Path) -> Iterator[None]:
    """Whatever a reconstruction raises inside says what was wrong, where it is no bug of ours."""
    try:
        yield
    except Exception as error:
        _note_unreadable(error, output)
        known = explain(error, output)
        if known is None or known is error:
            raise
        raise known from error


def _note_unreadable(error: Exception, output: Path) -> None:
    """So that the reconstruction goes on when the file has been repaired."""
    from ..capture.images import UnreadableImage
    from ..train.plan import Folder, note_unreadable

    if isinstance(error, UnreadableImage):
        with suppress(OSError, PeelError):  # the error itself is what people have to hear of
            note_unreadable(Folder(output), error.file)


def needs(error: ModuleNotFoundError) -> PeelError:
    """What to say when a package that training needs is not there."""
    return ReconstructionError(
        f"training needs {error.name}", hint='Install it with: pip install "peel4d[train]"'
    )
