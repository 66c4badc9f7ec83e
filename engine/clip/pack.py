"""Packing a clip: the same pictures in fewer bytes."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
from .writer import write_clip

T = TypeVar("T")

CODECS = (Predictive.name, Baked.name)
#: Frames and cameras that a search for a target looks at, at most, and its precision (log2 of the
#: steps' factor): 2 % of the steps, about 0.1 dB or 1 % of the bytes.
_SAMPLED_FRAMES, _SAMPLED_CAMERAS = 6, 4
_FINEST, _COARSEST, _SEARCH_STEPS = -5.0, 4.0, 9


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
        coarseness = job.search(progress)
        encoder = job.encoder(coarseness)
        kept = before = 0

        def frames() -> Iterator[Splats]:
            nonlocal kept, before
            for index, splats in enumerate(_in_threads(job.pruned, range(reader.info.frame_count))):
                kept, before = kept + len(splats), before + reader.info.points[index]
                progress(Progress("pack", index + 1, reader.info.frame_count))
                yield splats

        static = job.static()
        if static is not None:
            kept, before = kept + len(static), before + reader.info.static_points
        info = write_clip(
            output,
            frames(),
            fps=reader.info.fps,
            cameras=reader.info.cameras,
            settings=reader.info.settings,
            provenance={
                **reader.info.provenance,
                "packed": {
                    "codec": settings.codec,
                    "coarseness": coarseness,
                    "prune": settings.prune,
                },
            },
            first_frame=reader.info.first_frame,
            up=reader.info.up,
            static=static,
            encoder=encoder,
        )
        return Packed(
            info,
            output.stat().st_size,
            reader.total_nbytes,
            1 - kept / before if before else 0.0,
            coarseness,
        )


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

    def search(self, progress: ProgressCallback) -> float:
        """The coarseness that meets the target, or that of the settings."""
        count = self.reader.info.frame_count
        if self.settings.target_bytes is not None:
            wanted = self._fits
        elif self.settings.target_psnr is not None:
            wanted = self._good
        else:
            return self.settings.coarseness
        chosen = np.unique(np.linspace(0, count - 1, min(count, _SAMPLED_FRAMES)).astype(int))
        sample = [(int(index), self.pruned(int(index))) for index in chosen]
        low, high = _FINEST, _COARSEST
        # Smaller files and worse pictures both lie at the coarse end.
        fits = self.settings.target_bytes is not None
        if not wanted(2.0 ** (high if fits else low), sample):
            raise ClipError(
                "the target cannot be met with any steps",
                where=self.reader.path,
                hint="Ask for a larger file" if fits else "Ask for a lower PSNR, or --prune 0",
            )
        for step in range(_SEARCH_STEPS):
            middle = 0.5 * (low + high)
            if wanted(2.0**middle, sample) == fits:
                high = middle
            else:
                low = middle
            progress(Progress("search", step + 1, _SEARCH_STEPS))
        return 2.0 ** (high if fits else low)

    def _fits(self, coarseness: float, sample: Sequence[tuple[int, Splats]]) -> bool:
        encoder = self.encoder(coarseness)
        sizes = _in_threads(lambda one: len(encoder.encode(one[1], "sample").data), sample)
        frames = np.mean(list(sizes)) * self.reader.info.frame_count
        static = self.static()
        fixed = (
            0 if static is None else len(encoder.encode(static, "static points", static=True).data)
        )
        # Directory entries and clip.json: what the source has, too.
        head = 130 * self.reader.info.frame_count + 400 * len(self.reader.info.cameras) + 4096
        return frames + fixed + head <= self.settings.target_bytes

    def _good(self, coarseness: float, sample: Sequence[tuple[int, Splats]]) -> bool:
        encoder, info = self.encoder(coarseness), self.reader.info
        step = max(1, len(self.cameras) // _SAMPLED_CAMERAS)
        cameras = self.cameras[::step][:_SAMPLED_CAMERAS]
        static = self.static()
        coded_static = (
            () if static is None else (_through(encoder, static, info.sh_degree, static=True),)
        )
        errors = []
        for index, splats in sample:
            parts = (_through(encoder, splats, info.sh_degree), *coded_static)
            original = [part.unpack() for part in self.reader.packed(index)]
            for camera in cameras:
                errors.append(_error(original, parts, camera, info.settings))
        return -10 * math.log10(max(float(np.mean(errors)), 1e-12)) >= self.settings.target_psnr


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
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
