"""Packing a clip: the same pictures in fewer bytes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from ..errors import ClipError
from ..machine import cores
from ..progress import Progress, ProgressCallback, silent
from ..render.importance import worth_keeping
from ..render.splats import Splats
from .clip import ClipInfo
from .codecs import DECODERS, Baked, Encoder, Predictive
from .predictive import STATIC_STEPS, Steps, position_step
from .reader import ClipReader
from .schema import encode_info
from .target import (
    SAMPLED_FRAMES,
    Target,
    picture_error,
    psnr_of,
    sampled_cameras,
    sampled_frames,
    trial_file,
)
from .writer import write_clip

T = TypeVar("T")

CODECS = (Predictive.name, Baked.name)
#: Trials of a search, at most.
_SEARCH_STEPS = 9
#: Bytes of a frame's entries in the archive, and what else a head may need.
_ENTRY, _HEAD_RESERVE = 130, 1024
#: At this coarseness points that are fitted look as others do at 1.
FITTED_COARSENESS = 2.0
#: Frames that a search fits.
_FITTED_FRAMES = 3
#: Static points of this share of all points have the same steps as frames have, scaled by
#: `_Job._static_scale`; those of very long clips are not finer than this factor.
_STATIC_BALANCE, _STATIC_FINEST = 2.2, 0.5
#: How often a size is tried.
_TRIALS = 4


@dataclass(frozen=True)
class PackSettings:
    """How a clip is packed.

    codec: "predictive" or "baked". coarseness: factor of all steps of the predictive codec; 1, the
        default, costs some hundredths of a decibel against ground truth, and 2, the default with a
        `Fitter`, hardly more.
    prune: the points of a frame that together make less than this share of the pictures of the
        clip's cameras are left out: they are inside, or next to transparent. 0 keeps all.
    target_bytes: of the file; target_psnr: dB of the packed pictures against the source's, in the
        clip's cameras. Either looks for the coarseness that just meets it.
    """

    codec: str = Predictive.name
    coarseness: float | None = None
    prune: float = 0.003
    target_bytes: int | None = None
    target_psnr: float | None = None


class Fitter(Protocol):
    """Makes the best of points on lattices: fits them to the footage again.

    steps: of the lattices. cell: width of the positions' grid, world units. What comes back is on
    the lattices, in the order that went in. Called from several threads at once. Raises PeelError.
    at_once: how many are fitted at the same time.
    """

    at_once: int

    def frame(self, index: int, splats: Splats, steps: Steps, cell: float) -> Splats: ...

    def static(self, splats: Splats, steps: Steps, cell: float) -> Splats: ...


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
    fitter: Fitter | None = None,
    progress: ProgressCallback = silent,
) -> Packed:
    """Write the clip `source`, or that of a reconstruction's folder, with another codec.

    fitter: improves what the predictive codec leaves, so that steps can be twice as long. Frames
    are encoded in threads and forgotten. Raises ClipError for a source or a target that
    cannot be had; an older `output` then stays as it was.
    """
    settings = settings or PackSettings()
    source, output = Path(source), Path(output)
    if source.is_dir():
        source = source / "clip.p4d"
    refuse_own_source(source, output)
    with ClipReader(source, cache_frames=1) as reader:
        job = _Job(reader, settings, fitter)
        target = budget = settings.target_bytes
        if target is None:
            return job.write(output, job.search(None, progress), progress)
        with trial_file(output) as trial:
            for _ in range(_TRIALS):
                packed = job.write(trial, job.search(budget, progress), progress)
                if packed.nbytes <= target:
                    trial.replace(output)
                    return packed
                # Frames that were not in the sample are larger.
                budget = int(0.98 * budget * target / packed.nbytes)
            raise job.unreachable()


def refuse_own_source(source: Path, output: Path) -> None:
    """Raises ClipError where a packed clip would be written over what it is made from."""
    if output.exists() and source.exists() and output.samefile(source):
        raise ClipError(
            "a clip cannot be packed onto itself", where=output, hint="Choose another output"
        )


def write_packed(
    output: Path,
    frames: Iterable[Splats],
    info: ClipInfo,
    *,
    static: Splats | Callable[[], Splats | None] | None,
    encoder: Encoder,
    packed: Mapping[str, object],
    first_frame: int | None = None,
) -> ClipInfo:
    """Write frames as a clip that is like another one, of the head `info`, in all else.

    packed: how, for the provenance. first_frame: label, that of `info` by default. Raises ClipError
    and what `frames` raises.
    """
    return write_clip(
        output,
        frames,
        fps=info.fps,
        cameras=info.cameras,
        settings=info.settings,
        provenance={**info.provenance, "packed": dict(packed)},
        first_frame=info.first_frame if first_frame is None else first_frame,
        up=info.up,
        static=static,
        encoder=encoder,
    )


class _Job:
    """An open source, what is left of its points, and what a coarseness does to it."""

    def __init__(
        self, reader: ClipReader, settings: PackSettings, fitter: Fitter | None = None
    ) -> None:
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
        if fitter is not None and settings.codec != Predictive.name:
            raise ClipError(
                f"points are not fitted for the codec '{settings.codec}'",
                hint="Leave out --capture, or use --codec predictive",
            )
        self.reader, self.settings, self.fitter = reader, settings, fitter
        self.cameras = [camera.camera() for camera in reader.info.cameras if camera.train]
        if settings.target_psnr is not None:
            sampled_cameras(reader)  # which there must be
        self._static: Splats | None = None
        self._sample: list[tuple[int, Splats]] = []

    def write(self, output: Path, coarseness: float, progress: ProgressCallback) -> Packed:
        """The clip with these steps."""
        reader, settings = self.reader, self.settings
        info, encoder = reader.info, self.encoder(coarseness)
        kept, before = 0, sum(info.points) + info.static_points

        def points(index: int) -> Splats:
            return self.fitted(index, self.pruned(index), encoder)

        with (
            _in_threads(points, range(info.frame_count), self._workers()) as parts,
            # Fitting the static points takes as long as many frames, and waits for none.
            _in_threads(self.fitted_static, [encoder], 1) as alone,
        ):

            def frames() -> Iterator[Splats]:
                nonlocal kept
                for index, splats in enumerate(parts):
                    kept += len(splats)
                    progress(Progress("pack", index + 1, info.frame_count))
                    yield splats

            written = write_packed(
                output,
                frames(),
                info,
                static=partial(next, alone),
                encoder=encoder,
                packed={
                    "codec": settings.codec,
                    "coarseness": coarseness,
                    "prune": settings.prune,
                    "fitted": self.fitter is not None,
                },
            )
        kept += written.static_points
        return Packed(
            written,
            output.stat().st_size,
            reader.total_nbytes,
            1 - kept / before if before else 0.0,
            coarseness,
        )

    def _workers(self) -> int:
        """Frames that are made ready at the same time."""
        return max(min(cores(), 8), self.fitter.at_once if self.fitter else 1)

    def unreachable(self) -> ClipError:
        """The error for a target that no steps meet."""
        settings = self.settings
        return Target(settings.target_bytes, settings.target_psnr).unreachable(self.reader.path)

    def encoder(self, coarseness: float) -> Encoder:
        if self.settings.codec == Baked.name:
            return Baked()
        static = coarseness * self._static_scale()
        steps, static_steps = Steps().scaled(coarseness), STATIC_STEPS.scaled(static)
        if self.fitter is None:
            return Predictive(steps=steps, static_steps=static_steps)
        # Points are fitted on the grid that they are coded on, and may change their radii there.
        cells = [
            position_step(splats, own) if splats is not None and len(splats) else None
            for splats, own in ((self._typical, steps), (self.static(), static_steps))
        ]
        return Predictive(*cells, steps, static_steps)

    def _static_scale(self) -> float:
        """Of the static points' steps to those of frames.

        They are written once for all frames, so in a long clip they may cost more. At equal slopes
        of rate and distortion, with noise of a twelfth of the squared step, the square of the
        factor is the share of their points in all that is written.
        """
        info = self.reader.info
        share = info.static_points / max(sum(info.points), 1)
        return float(np.clip(math.sqrt(_STATIC_BALANCE * share), _STATIC_FINEST, 1.0))

    @cached_property
    def _typical(self) -> Splats | None:
        """The points of the first frame that has any."""
        index = next((i for i, count in enumerate(self.reader.info.points) if count), None)
        return None if index is None else self.reader.packed(index, static=False)[0].unpack()

    def fitted(self, index: int, splats: Splats, encoder: Encoder) -> Splats:
        """The points of a frame as the footage likes them best on the encoder's lattices."""
        if self.fitter is None or not len(splats):
            return splats
        return self.fitter.frame(index, splats, encoder.steps, encoder.cell)

    def fitted_static(self, encoder: Encoder) -> Splats | None:
        static = self.static()
        if self.fitter is None or static is None or not len(static):
            return static
        return self.fitter.static(static, encoder.static_steps, encoder.static_cell)

    def pruned(self, index: int) -> Splats:
        """The points of a frame that are worth keeping, without the static ones."""
        splats = self.reader.packed(index, static=False)[0].unpack()
        settings = self.reader.info.settings
        return splats.select(worth_keeping(splats, self.cameras, settings, self.settings.prune))

    def static(self) -> Splats | None:
        if self._static is None and self.reader.info.static_points:
            # All of them: what no camera of the rig sees may be what a new one looks at.
            self._static = self.reader.packed(0)[1].unpack()
        return self._static

    def search(self, budget: int | None, progress: ProgressCallback) -> float:
        """The coarseness that meets the target, or that of the settings. budget: of a file."""
        if budget is None and self.settings.target_psnr is None:
            return self.settings.coarseness or (1.0 if self.fitter is None else FITTED_COARSENESS)
        fits = budget is not None
        if not self._sample:
            few = SAMPLED_FRAMES if self.fitter is None else _FITTED_FRAMES
            for index in sampled_frames(self.reader, few):
                progress(Progress("search", 0, _SEARCH_STEPS))
                self._sample.append((index, self.pruned(index)))

        tried = 0

        def measure(factor: float) -> float:
            nonlocal tried
            watch = partial(progress, Progress("search", tried, _SEARCH_STEPS))
            tried += 1
            return self._nbytes(factor, watch) if fits else self._psnr(factor, watch)

        found = Target(budget, self.settings.target_psnr).factor(measure, _SEARCH_STEPS)
        if found is None:
            raise self.unreachable()
        return found

    def _nbytes(self, coarseness: float, watch: Callable[[], None]) -> float:
        """About what a file with these steps takes."""
        encoder, info = self.encoder(coarseness), self.reader.info
        sizes = []
        for index, splats in self._sample:
            watch()
            splats = self.fitted(index, splats, encoder)
            sizes.append(len(encoder.encode(splats, "sample").data))
        static, fixed = self.fitted_static(encoder), 0
        if static is not None:
            fixed = len(encoder.encode(static, "static points", static=True).data)
        head = len(encode_info(info, "sample")) + _HEAD_RESERVE
        return float(np.mean(sizes) + _ENTRY) * info.frame_count + fixed + head

    def _psnr(self, coarseness: float, watch: Callable[[], None]) -> float:
        """Of the sampled frames in some cameras, against the source."""
        encoder, info = self.encoder(coarseness), self.reader.info
        cameras = sampled_cameras(self.reader)
        static = self.fitted_static(encoder)
        coded = () if static is None else (_through(encoder, static, info.sh_degree, static=True),)
        errors = []
        for index, splats in self._sample:
            splats = self.fitted(index, splats, encoder)
            parts = (_through(encoder, splats, info.sh_degree), *coded)
            original = [part.unpack() for part in self.reader.packed(index)]
            for camera in cameras:
                watch()
                errors.append(picture_error(original, parts, camera, info.settings))
        return psnr_of(errors)


def _through(encoder: Encoder, splats: Splats, sh_degree: int, *, static: bool = False) -> Splats:
    """Points as they come out of the codec."""
    chunk = encoder.encode(splats, "sample", static=static)
    return DECODERS[encoder.name](chunk.data, chunk.points, sh_degree, "sample").unpack()


@contextmanager
def _in_threads(
    function: Callable[[T], object], items: Iterable[T], workers: int
) -> Iterator[Iterator]:
    """`map`, begun at once and a few items ahead: numpy and the core work without Python's lock."""
    pool, rest = ThreadPoolExecutor(workers), iter(items)
    waiting = deque(pool.submit(function, item) for item in islice(rest, workers + 1))

    def results() -> Iterator:
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield done

    try:
        yield results()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
