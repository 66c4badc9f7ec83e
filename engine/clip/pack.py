"""Packing a clip: the same pictures in fewer bytes."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import ClipError
from ..progress import Progress, ProgressCallback, silent
from ..render.backend import Instance, render_scene
from ..render.camera import Camera
from ..render.core import IDENTITY
from ..render.importance import visibility
from ..render.settings import PeelSettings
from ..render.splats import Splats
from .clip import ClipInfo
from .codecs import DECODERS, Baked, Encoder, Predictive
from .reader import ClipReader
from .schema import encode_info
from .writer import write_clip

T = TypeVar("T")

CODECS = (Predictive.name, Baked.name)
#: Frames and cameras that a search for a target looks at, at most, and its precision (log2 of the
#: steps' factor): 2 % of the steps, about 0.1 dB or 1 % of the bytes.
_SAMPLED_FRAMES, _SAMPLED_CAMERAS = 6, 4
_FINEST, _COARSEST, _SEARCH_STEPS = -5.0, 4.0, 9
#: Bytes of a frame's entries in the archive, and what else a head may need.
_ENTRY, _HEAD_RESERVE = 130, 1024
#: How often a size is tried.
_TRIALS = 4


@dataclass(frozen=True)
class PackSettings:
    """How a clip is packed.

    codec: "predictive" or "baked". coarseness: factor of all steps of the predictive codec; 1 costs
        some hundredths of a decibel against ground truth.
    prune: a point of a frame of whose disk the clip's cameras see less than this share, on average
        over those that look at it, is left out: it is inside, or next to transparent. 0 keeps all.
    target_bytes: of the file; target_psnr: dB of the packed pictures against the source's, in the
        clip's cameras. Either looks for the coarseness that just meets it.
    """

    codec: str = Predictive.name
    coarseness: float = 1.0
    prune: float = 0.01
    target_bytes: int | None = None
    target_psnr: float | None = None


@dataclass(frozen=True)
class Packed:
    """What came of it. pruned: share of all points. coarseness: as given or found."""

    info: ClipInfo
    nbytes: int
    source_nbytes: int
    pruned: float
    coarseness: float


def pack(
    source: Path,
    output: Path,
    settings: PackSettings | None = None,
    *,
    progress: ProgressCallback = silent,
) -> Packed:
    """Write the clip `source`, or that of a reconstruction's folder, with another codec.

    Frames are encoded in threads and forgotten. Raises ClipError for a source or a target that
    cannot be had; an older `output` then stays as it was.
    """
    settings = settings or PackSettings()
    source, output = Path(source), Path(output)
    if source.is_dir():
        source = source / "clip.p4d"
    if output.exists() and source.exists() and output.samefile(source):
        raise ClipError(
            "a clip cannot be packed onto itself", where=output, hint="Choose another output"
        )
    with ClipReader(source, cache_frames=1) as reader:
        job = _Job(reader, settings)
        target, budget = settings.target_bytes, settings.target_bytes
        trial = output if target is None else output.with_name(f".{output.name}.trial")
        try:
            for _ in range(_TRIALS):
                packed = job.write(trial, job.search(budget, progress), progress)
                if target is None or packed.nbytes <= target:
                    if trial != output:
                        trial.replace(output)
                    return packed
                # Frames that were not in the sample are larger.
                budget = int(0.98 * budget * target / packed.nbytes)
            raise job.unreachable()
        finally:
            if trial != output:
                trial.unlink(missing_ok=True)


class _Job:
    """An open source, what is left of its points, and what a coarseness does to it."""

    def __init__(self, reader: ClipReader, settings: PackSettings) -> None:
        if settings.codec not in CODECS:
            raise ClipError(
                f"no codec called '{settings.codec}'", hint=f"The codecs are: {', '.join(CODECS)}"
            )
        targets = settings.target_bytes is not None, settings.target_psnr is not None
        if any(targets) and (settings.codec != Predictive.name or all(targets)):
            raise ClipError(
                "a target needs the predictive codec, and only one can be met",
                hint="Give --target-size or --target-psnr with --codec predictive",
            )
        self.reader, self.settings = reader, settings
        self.cameras = [camera.camera() for camera in reader.info.cameras if camera.train]
        if settings.target_psnr is not None and not self.cameras:
            raise ClipError(
                "the clip has no cameras to compare pictures in",
                where=reader.path,
                hint="Use --target-size instead",
            )
        self._static: Splats | None = None
        self._sample: list[tuple[int, Splats]] = []

    def write(self, output: Path, coarseness: float, progress: ProgressCallback) -> Packed:
        """The clip with these steps."""
        reader, settings = self.reader, self.settings
        info, static = reader.info, self.static()
        kept, before = (0, 0) if static is None else (len(static), info.static_points)

        def frames() -> Iterator[Splats]:
            nonlocal kept, before
            with closing(_in_threads(self.pruned, range(info.frame_count))) as pruned:
                for index, splats in enumerate(pruned):
                    kept, before = kept + len(splats), before + info.points[index]
                    progress(Progress("pack", index + 1, info.frame_count))
                    yield splats

        with closing(frames()) as source:
            written = write_clip(
                output,
                source,
                fps=info.fps,
                cameras=info.cameras,
                settings=info.settings,
                provenance={
                    **info.provenance,
                    "packed": {
                        "codec": settings.codec,
                        "coarseness": coarseness,
                        "prune": settings.prune,
                    },
                },
                first_frame=info.first_frame,
                up=info.up,
                static=static,
                encoder=self.encoder(coarseness),
            )
        return Packed(
            written,
            output.stat().st_size,
            reader.total_nbytes,
            1 - kept / before if before else 0.0,
            coarseness,
        )

    def unreachable(self) -> ClipError:
        """The error for a target that no steps meet."""
        size = self.settings.target_bytes is not None
        return ClipError(
            "the target cannot be met with any steps",
            where=self.reader.path,
            hint="Ask for a larger file" if size else "Ask for a lower PSNR, or --prune 0",
        )

    def encoder(self, coarseness: float) -> Encoder:
        if self.settings.codec == Baked.name:
            return Baked()
        return Predictive().scaled(coarseness)

    def pruned(self, index: int) -> Splats:
        """The points of a frame that are worth keeping, without the static ones."""
        return self._worth(self.reader.packed(index, static=False)[0].unpack())

    def static(self) -> Splats | None:
        if self._static is None and self.reader.info.static_points:
            # All of them: what no camera of the rig sees may be what a new one looks at.
            self._static = self.reader.packed(0)[1].unpack()
        return self._static

    def _worth(self, splats: Splats) -> Splats:
        if self.settings.prune <= 0 or not self.cameras:
            return splats
        seen = visibility(splats, self.cameras, self.reader.info.settings)
        return splats.select(seen >= self.settings.prune)

    def search(self, budget: int | None, progress: ProgressCallback) -> float:
        """The coarseness that meets the target, or that of the settings. budget: of a file."""
        if budget is None and self.settings.target_psnr is None:
            return self.settings.coarseness
        fits = budget is not None
        if not self._sample:
            count = self.reader.info.frame_count
            chosen = np.unique(np.linspace(0, count - 1, min(count, _SAMPLED_FRAMES)).astype(int))
            for index in chosen:
                progress(Progress("search", 0, _SEARCH_STEPS))
                self._sample.append((int(index), self.pruned(int(index))))

        def wanted(exponent: float, step: int) -> bool:
            watch = partial(progress, Progress("search", step, _SEARCH_STEPS))
            if fits:
                return self._nbytes(2.0**exponent, watch) <= budget
            return self._psnr(2.0**exponent, watch) >= self.settings.target_psnr

        low, high = _FINEST, _COARSEST
        # Smaller files and worse pictures both lie at the coarse end.
        if not wanted(high if fits else low, 0):
            raise self.unreachable()
        for step in range(_SEARCH_STEPS):
            middle = 0.5 * (low + high)
            if wanted(middle, step + 1) == fits:
                high = middle
            else:
                low = middle
        return 2.0 ** (high if fits else low)

    def _nbytes(self, coarseness: float, watch: Callable[[], None]) -> float:
        """About what a file with these steps takes."""
        encoder, info = self.encoder(coarseness), self.reader.info
        sizes = []
        for _, splats in self._sample:
            watch()
            sizes.append(len(encoder.encode(splats, "sample").data))
        static, fixed = self.static(), 0
        if static is not None:
            fixed = len(encoder.encode(static, "static points", static=True).data)
        head = len(encode_info(info, "sample")) + _HEAD_RESERVE
        return float(np.mean(sizes) + _ENTRY) * info.frame_count + fixed + head

    def _psnr(self, coarseness: float, watch: Callable[[], None]) -> float:
        """Of the sampled frames in some cameras, against the source."""
        encoder, info = self.encoder(coarseness), self.reader.info
        step = max(1, len(self.cameras) // _SAMPLED_CAMERAS)
        cameras = self.cameras[::step][:_SAMPLED_CAMERAS]
        static = self.static()
        coded = () if static is None else (_through(encoder, static, info.sh_degree, static=True),)
        errors = []
        for index, splats in self._sample:
            parts = (_through(encoder, splats, info.sh_degree), *coded)
            original = [part.unpack() for part in self.reader.packed(index)]
            for camera in cameras:
                watch()
                errors.append(_error(original, parts, camera, info.settings))
        return -10 * math.log10(max(float(np.mean(errors)), 1e-12))


def _through(encoder: Encoder, splats: Splats, sh_degree: int, *, static: bool = False) -> Splats:
    """Points as they come out of the codec."""
    chunk = encoder.encode(splats, "sample", static=static)
    return DECODERS[encoder.name](chunk.data, chunk.points, sh_degree, "sample").unpack()


def _error(
    first: Sequence[Splats], second: Sequence[Splats], camera: Camera, settings: PeelSettings
) -> float:
    """Mean squared difference of two pictures, over what either covers."""
    pictures = [
        render_scene([Instance(part, IDENTITY) for part in parts], camera, settings).rgba
        for parts in (first, second)
    ]
    covered = (pictures[0][..., 3] > 0) | (pictures[1][..., 3] > 0)
    if not covered.any():
        return 0.0
    return float(((pictures[0] - pictures[1])[covered][:, :3] ** 2).mean())


def _in_threads(function: Callable[[T], object], items: Iterable[T]) -> Iterator:
    """`map`, a few items ahead: numpy and the core work without Python's lock."""
    workers = min(os.cpu_count() or 1, 8)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
