"""A whole video: its groups of pictures, trained by several processes and written into one file."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import shutil
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ..atomic import write_bytes
from ..capture.listing import file_state
from ..errors import ReconstructionError
from ..machine import cores, end_with_parent
from ..progress import Progress, ProgressCallback, silent
from ..video2d.gop import MAX_FRAMES, Gop
from ..video2d.gop_codec import Steps, decode_gop, encode_gop
from ..video2d.source import FrameSource
from ..video2d.video import VideoInfo, encode_info, write_video
from .run import training_device, usable_vram
from .video_gop import GopSettings, gop_psnr, train_gop

#: Pixels for each Gaussian where nobody says how many: 20,000 for 1280x720, as D2GV has.
_PIXELS_EACH = 46
_FEWEST, _MOST = 16, 200_000
#: Bits that a Gaussian takes at the default steps, about: how many a size has room for.
_BITS_EACH = 80
#: Bytes of the archive around each group, and of its head.
_ENTRY, _HEAD_RESERVE = 150, 512
#: What a search for a target tries: factors of the default steps, and how often.
_FINEST, _COARSEST, _SEARCH_STEPS = 0.1, 8.0, 12

#: Processes that share a GPU, at most, and what each takes of it: half is CUDA's own.
_MOST_ON_GPU, _PROCESS_VRAM = 8, 1 << 30

#: Groups that are trained one after the other, each from where the last one ended.
_RUN = 2


@dataclass(frozen=True)
class EncodeSettings:
    """How a video is encoded.

    gop: frames of a group. gaussians: of a group, None for as many as the picture's size asks for.
    coarseness: factor of the default steps. target_bytes, target_psnr: of the file, and dB of the
    mean frame of every group; either chooses the coarseness. training: what else a group is told.
    """

    gop: int = 10
    gaussians: int | None = None
    coarseness: float = 0.7
    target_bytes: int | None = None
    target_psnr: float | None = None
    seed: int = 0
    training: GopSettings = field(default_factory=GopSettings)


@dataclass(frozen=True)
class Encoded:
    """What came of it. psnr: dB of every decoded frame. gops: what each group took. device: where
    they were trained, "cpu" or "cuda"."""

    info: VideoInfo
    nbytes: int
    psnr: tuple[float, ...]
    gops: tuple[dict, ...]
    seconds: float
    device: str


@dataclass(frozen=True)
class _Segment:
    """Groups that one process trains one after the other, each beginning where the last ended."""

    source: FrameSource
    settings: EncodeSettings
    gops: tuple[tuple[int, int, int], ...]  # number, first frame, frames
    folder: Path
    threads: int
    device: str


def encode(
    source: FrameSource,
    output: Path,
    settings: EncodeSettings,
    *,
    jobs: int | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: ProgressCallback = silent,
) -> Encoded:
    """Train every group of the source and write `output`.

    jobs: processes, None for one per core, or for as many as a GPU serves well. device: "auto",
    "cpu" or "cuda". Finished groups are kept in a folder beside `output`
    until it is written; `resume` takes them from there if source and settings are the same. The
    groups are cut into runs of a few, and only within a run does a group begin where the last one
    ended, so the file is the same whatever the number of jobs.
    Raises CaptureError, ReconstructionError, CoreError, OutputError.
    """
    if not 1 <= settings.gop <= MAX_FRAMES:
        raise ReconstructionError(f"a group has 1 to {MAX_FRAMES} frames")
    clock = time.perf_counter()
    device = training_device(device).type
    settings = _settled(settings, source)
    starts = range(0, source.frame_count, settings.gop)
    gops = [
        (number, first, min(settings.gop, source.frame_count - first))
        for number, first in enumerate(starts)
    ]
    jobs = max(1, min(jobs or _common_jobs(device), len(gops)))
    folder = output.with_name(f".{output.name}.gops")
    _prepare(folder, _fingerprint(source, settings), resume)
    runs = [tuple(gops[first : first + _RUN]) for first in range(0, len(gops), _RUN)]
    jobs = min(jobs, len(runs))
    threads = max(1, cores() // jobs)
    segments = [_Segment(source, settings, run, folder, threads, device) for run in runs]
    _train(segments, len(gops), jobs, progress)
    chunks = [_chunk_file(folder, number).read_bytes() for number, _, _ in gops]
    reports = [json.loads(_report_file(folder, number).read_text()) for number, _, _ in gops]
    info = VideoInfo(
        source.width,
        source.height,
        source.fps,
        tuple(
            (frames, report["gaussians"])
            for (_, _, frames), report in zip(gops, reports, strict=True)
        ),
        _provenance(source, settings),
    )
    write_video(output, info, chunks)
    shutil.rmtree(folder, ignore_errors=True)
    psnr = tuple(value for report in reports for value in report["psnr"])
    nbytes = output.stat().st_size
    return Encoded(info, nbytes, psnr, tuple(reports), time.perf_counter() - clock, device)


def _common_jobs(device: str) -> int:
    """Processes where nobody says how many."""
    if device == "cpu":
        return cores()
    # A step is some thirty short kernels that Python has to start.
    jobs = min(_MOST_ON_GPU, cores() // 2)
    vram = usable_vram(None)
    return jobs if vram is None else min(jobs, vram // _PROCESS_VRAM)


def _settled(settings: EncodeSettings, source: FrameSource) -> EncodeSettings:
    """With a number of Gaussians, and the share of a target size that groups may take."""
    count = settings.gaussians
    if count is None:
        count = default_gaussians(source)
        if settings.target_bytes is not None:
            groups = math.ceil(source.frame_count / settings.gop)
            room = (_room(settings, source)) * 8 / groups / _BITS_EACH
            count = max(_FEWEST, min(count, int(room)))
    return replace(settings, gaussians=count)


def default_gaussians(source: FrameSource) -> int:
    """Of a group, where nobody says how many."""
    return min(max(source.width * source.height // _PIXELS_EACH, _FEWEST), _MOST)


def _room(settings: EncodeSettings, source: FrameSource) -> int:
    """Bytes of a target size that are left for the groups' chunks."""
    groups = math.ceil(source.frame_count / settings.gop)
    empty = VideoInfo(
        source.width,
        source.height,
        source.fps,
        ((MAX_FRAMES, 10**6),) * groups,
        _provenance(source, settings),
    )
    room = settings.target_bytes - len(encode_info(empty)) - _ENTRY * groups - _HEAD_RESERVE
    if room < 64 * groups:
        raise ReconstructionError(
            f"a file of {settings.target_bytes} bytes has no room for {groups} groups",
            hint="Ask for a larger file",
        )
    return room


def _share(frames: int, settings: EncodeSettings) -> float:
    """Of a target size that a group takes: what does not move takes 8 of 20 numbers."""
    return 0.4 + 0.6 * frames / settings.gop


def _provenance(source: FrameSource, settings: EncodeSettings) -> dict:
    training = asdict(settings.training)
    if not math.isfinite(training["seconds"]):
        training["seconds"] = None
    return {
        "source": source.path.name,
        "gop": settings.gop,
        "gaussians": settings.gaussians,
        "coarseness": settings.coarseness,
        "target_bytes": settings.target_bytes,
        "target_psnr": settings.target_psnr,
        "seed": settings.seed,
        "training": training,
    }


def _fingerprint(source: FrameSource, settings: EncodeSettings) -> str:
    """Of everything that the groups depend on."""
    files = [file_state(path) for path in source.files or (source.path,)]
    known = [str(source.path.resolve()), files, _provenance(source, settings)]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _prepare(folder: Path, fingerprint: str, resume: bool) -> None:
    """An empty folder for groups, or one with those of the same job."""
    mark = folder / "job"
    same = mark.is_file() and mark.read_text() == fingerprint
    if not (resume and same):
        shutil.rmtree(folder, ignore_errors=True)
        write_bytes(mark, fingerprint.encode())


def _chunk_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.bin"


def _report_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def _train(segments: list[_Segment], total: int, jobs: int, progress: ProgressCallback) -> None:
    clock = time.perf_counter()

    def report(done: float) -> None:
        left = (time.perf_counter() - clock) * (total / done - 1) if done > 0.05 else None
        progress(Progress("encode", round(100 * done), 100 * total, left))

    if jobs == 1:
        for segment in segments:
            _run_segment(segment, lambda number, share: report(number + share))
        return
    context = multiprocessing.get_context("spawn")
    shares = context.Array("d", total)
    stop = context.Event()
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin, initargs=(shares, stop)
    )
    try:
        running = {pool.submit(_run_shared, segment) for segment in segments}
        while running:
            done, running = wait(running, timeout=0.5, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            report(sum(shares))
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


class _Stopped(Exception):
    """Another process has failed, or the user has had enough."""


_shared: dict[str, object] = {}


def _begin(shares, stop) -> None:
    """In a new process: what it shares with its parent."""
    end_with_parent()
    _shared.update(shares=shares, stop=stop)


def _run_shared(segment: _Segment) -> None:
    def watch(number: int, share: float) -> None:
        _shared["shares"][number] = share
        if _shared["stop"].is_set():
            raise _Stopped

    try:
        _run_segment(segment, watch)
    except KeyboardInterrupt:
        raise _Stopped from None  # the parent hears of it, too


def _run_segment(segment: _Segment, watch: Callable[[int, float], None]) -> None:
    import torch

    # The core has its own threads; torch's would spin against them.
    torch.set_num_threads(1)
    before: Gop | None = None
    for number, first, count in segment.gops:
        chunk, report = _chunk_file(segment.folder, number), _report_file(segment.folder, number)
        if chunk.is_file() and report.is_file():
            before = decode_gop(chunk.read_bytes(), str(chunk))
        else:
            frames = list(segment.source.frames(first, count))
            before, data, words = _encode_group(segment, number, frames, before, watch)
            write_bytes(chunk, data)
            write_bytes(report, json.dumps(words).encode())
        watch(number, 1.0)


def _encode_group(
    segment: _Segment,
    number: int,
    frames: list[np.ndarray],
    before: Gop | None,
    watch: Callable[[int, float], None],
) -> tuple[Gop, bytes, dict]:
    settings, threads = segment.settings, segment.threads
    steps = Steps().scaled(settings.coarseness)
    trained, report = train_gop(
        frames,
        replace(settings.training, gaussians=settings.gaussians),
        steps,
        before=before,
        seed=settings.seed + number,
        threads=threads,
        device=training_device(segment.device),
        watch=lambda share, psnr: watch(number, 0.999 * share),
    )
    data, coarseness = _meet_target(segment, number, trained, frames)
    decoded = decode_gop(data, f"group {number}")
    psnr = gop_psnr(decoded, frames, threads)
    return (
        decoded,
        data,
        {
            "gaussians": len(decoded),
            "started_with": report.started_with,
            "bytes": len(data),
            "coarseness": coarseness,
            "steps": report.steps,
            "seconds": report.seconds,
            "cpu_seconds": report.cpu_seconds,
            "psnr": psnr,
            "psnr_before_coding": float(np.mean(gop_psnr(trained, frames, threads))),
        },
    )


def _meet_target(
    segment: _Segment, number: int, gop: Gop, frames: list[np.ndarray]
) -> tuple[bytes, float]:
    """The chunk, and the factor of its steps: what the settings say or what just meets a target."""
    settings, source = segment.settings, segment.source
    if settings.target_bytes is None and settings.target_psnr is None:
        return encode_gop(gop, Steps().scaled(settings.coarseness)), settings.coarseness
    budget = None
    if settings.target_bytes is not None:
        whole, rest = divmod(source.frame_count, settings.gop)
        groups = whole * _share(settings.gop, settings) + (_share(rest, settings) if rest else 0)
        budget = int(_room(settings, source) * _share(len(frames), settings) / groups)

    def try_with(coarseness: float) -> tuple[bytes, bool]:
        data = encode_gop(gop, Steps().scaled(coarseness))
        if budget is not None:
            return data, len(data) <= budget
        decoded = decode_gop(data, f"group {number}")
        reached = float(np.mean(gop_psnr(decoded, frames, segment.threads)))
        return data, reached >= settings.target_psnr

    # Coarser steps make smaller files and worse pictures.
    low, high = math.log(_FINEST), math.log(_COARSEST)
    good = high if budget is not None else low
    best = try_with(math.exp(good))
    if not best[1]:
        reached = float(np.mean(gop_psnr(gop, frames, segment.threads)))
        raise ReconstructionError(
            f"group {number} of {len(gop)} Gaussians cannot meet the target"
            + ("" if budget is not None else f": it was trained to {reached:.2f} dB"),
            where=source.path,
            hint="Ask for a larger file, or give fewer --gaussians"
            if budget is not None
            else "Ask for less, or give more --gaussians or --steps",
        )
    for _ in range(_SEARCH_STEPS):
        middle = 0.5 * (low + high)
        tried = try_with(math.exp(middle))
        if tried[1]:
            best, good = tried, middle
        if tried[1] == (budget is not None):
            high = middle
        else:
            low = middle
    return best[0], math.exp(good)
