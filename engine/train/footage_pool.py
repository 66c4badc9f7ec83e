"""Work on the footage of a finished reconstruction, in processes of their own.

A process opens the footage once for all its jobs, which know nothing of each other, so what they
make does not depend on how many processes there are.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from ..capture.detect import open_capture
from ..errors import ReconstructionError
from ..machine import cores, end_with_parent, machine_bytes
from ..progress import Progress, ProgressCallback, silent
from .finished import open_finished
from .plan import Folder, Plan
from .run import DEFAULT_MEMORY, Run, training_device
from .watch import UNWATCHED, Watch

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: Processes where nobody says how many, at most; and what each of them, and the one that starts
#: them, holds beside its share of the images.
_MOST, _PROCESS_BYTES, _OWN_BYTES = 8, 3 << 29, 3 << 29


@dataclass(frozen=True)
class Footage:
    """The reconstruction whose images are learned from, as every process opens it. device: see
    `training_device`. max_memory: bytes for images, of all processes together."""

    root: Path
    plan: Plan
    max_memory: int | None = None
    device: str = "cpu"

    def open(self, progress: ProgressCallback = silent, watch: Watch = UNWATCHED) -> Run:
        """Raises PeelError."""
        run = open_finished(
            self.plan,
            Folder(self.root),
            open_capture(self.plan.capture, size=self.plan.size),
            max_memory=self.max_memory,
            device=training_device(self.device),
            progress=progress,
            watch=watch,
        )
        run.color.requires_grad_(False)
        return run


@lru_cache(maxsize=1)
def opened(footage: Footage) -> Run:
    """The footage as this process has it open. Raises PeelError."""
    return footage.open()


class FootageJob(Protocol[T_co]):
    """Something to do with the footage, which can be sent to another process as can what it makes.
    footage: None where there is none."""

    def run(self, footage: Footage | None) -> T_co: ...


def processes_for(jobs: int | None, units: int, footage: Footage | None) -> int:
    """How many processes do so many jobs. jobs: what was asked for, None for as many as use the
    machine well; then one for a GPU, which one process keeps busy enough."""
    if jobs is None:
        if footage is not None and training_device(footage.device).type == "cuda":
            return 1
        jobs = min(cores(), _MOST)
        limit = footage.max_memory if footage else None
        memory = limit or machine_bytes()
        if memory is not None:
            jobs = min(jobs, (memory - _OWN_BYTES) // _PROCESS_BYTES)
    return max(1, min(jobs, units))


class FootagePool:
    """Does jobs in so many processes, or, for one, in this; a context manager, which waits for jobs
    that have begun and ends them where an error leaves it."""

    def __init__(self, footage: Footage | None, processes: int):
        self.processes = processes
        self._footage, self._pool = footage, None
        self._others = set(multiprocessing.active_children())
        if processes == 1:
            return
        if footage is not None:
            share = (footage.max_memory or DEFAULT_MEMORY) // processes
            self._footage = replace(footage, max_memory=share)
        self._pool = ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(max(1, cores() // processes),),
        )

    def __enter__(self) -> FootagePool:
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        if self._pool is not None:
            if error is not None:
                for process in set(multiprocessing.active_children()) - self._others:
                    process.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)
        opened.cache_clear()  # it may be another one the next time

    def do(self, job: FootageJob[T]) -> T:
        """What a job makes; other threads may have others done meanwhile. Raises PeelError."""
        if self._pool is None:
            return job.run(self._footage)
        with _explained():
            return self._pool.submit(job.run, self._footage).result()

    def each(
        self, jobs: Sequence[FootageJob[T]], progress: ProgressCallback = silent, stage: str = ""
    ) -> Iterator[T]:
        """What the jobs make, in their order; none of it is kept here. Raises PeelError."""
        for number, made in enumerate(
            map(self.do, jobs) if self._pool is None else self._made(jobs)
        ):
            yield made
            progress(Progress(stage, number + 1, len(jobs)))

    def _made(self, jobs: Sequence[FootageJob[T]]) -> Iterator[T]:
        rest = iter(jobs)
        waiting: deque[Future[T]] = deque()
        while True:
            with _explained():
                # One more than are at work: what waits in the pool cannot be taken back.
                for job in islice(rest, self.processes + 1 - len(waiting)):
                    waiting.append(self._pool.submit(job.run, self._footage))
                if not waiting:
                    return
                made = waiting.popleft().result()
            yield made


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise ReconstructionError(
            "a process that learned from the footage has ended early",
            hint="Where memory was short, use fewer of them (--jobs 1)",
        ) from error


def _begin(threads: int) -> None:
    """In a new process, before the core starts threads."""
    end_with_parent()
    os.environ["PEEL4D_THREADS"] = str(threads)
    # What is odd about the footage has been said when it was reconstructed.
    logging.disable(logging.WARNING)
