"""Rate, distortion and speed of a video's codecs on the same frames: ours beside HEVC and AV1."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import CaptureError
from ..machine import cores, machine, versions
from ..progress import Progress, ProgressCallback, silent
from ..video2d.source import FrameSource
from ..video2d.video import VideoReader
from .metrics import psnr, ssim
from .video_encode import EncodeSettings, default_gaussians, encode

#: FFmpeg's encoders with the options they are measured with, and the qualities of their curves.
ENCODERS = {
    "hevc": (
        "libx265",
        {"preset": "medium", "x265-params": "log-level=none"},
        (18, 23, 28, 33, 38),
    ),
    "av1": ("libsvtav1", {"preset": "6"}, (20, 30, 40, 50, 60)),
}
#: Shares of the default number of Gaussians that our own curve is made of.
_SHARES = (1.0, 0.5, 0.25)
#: How often frames are decoded for a time; the fastest pass counts, as the machine may be busy.
_PASSES = 3


def measure_video(
    source: FrameSource,
    settings: EncodeSettings,
    *,
    jobs: int | None = None,
    device: str = "auto",
    progress: ProgressCallback = silent,
) -> dict:
    """The JSON of `peel4d benchmark video`. device: where ours are trained and drawn.

    PSNR and SSIM are of every 8-bit RGB frame against
    the source's, averaged. `bytes` of HEVC and AV1 are those of their packets, without container;
    ours are of the file. `encode_seconds` is wall time; `decode_fps` counts frames as RGB in
    memory, in order. Raises PeelError.
    """
    truth = list(source.frames())
    rows: list[dict] = []
    settings_of = [
        replace(settings, gaussians=gaussians) for gaussians in _counts(settings, source)
    ]
    curves = [(name, quality) for name, (_, _, all_of) in ENCODERS.items() for quality in all_of]
    total = len(settings_of) + len(curves)
    skipped = []
    for number, chosen in enumerate(settings_of):
        progress(Progress("gaussian2d", number, total))
        rows.append(_gaussian2d(source, truth, chosen, jobs, device))
    for number, (name, quality) in enumerate(curves, len(settings_of)):
        progress(Progress(name, number, total))
        try:
            rows.append(_coded(name, quality, truth, source.fps))
        except CaptureError as error:
            skipped.append({"codec": name, "quality": quality, "reason": error.what})
    progress(Progress("done", total, total))
    return {
        "video": source.path.name,
        "width": source.width,
        "height": source.height,
        "frames": len(truth),
        "fps": source.fps,
        "threads": cores(),
        "rows": rows,
        "skipped": skipped,
        "warnings": list(source.warnings),
        "machine": machine(),
        "versions": versions("numpy", "torch", "av"),
    }


def _counts(settings: EncodeSettings, source: FrameSource) -> list[int]:
    most = settings.gaussians or default_gaussians(source)
    return sorted({max(1, round(share * most)) for share in _SHARES}, reverse=True)


def _gaussian2d(
    source: FrameSource,
    truth: list[np.ndarray],
    settings: EncodeSettings,
    jobs: int | None,
    device: str,
) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.g2v"
        result = encode(source, path, settings, jobs=jobs, device=device)

        def decode() -> list[np.ndarray]:
            with VideoReader(path) as reader:
                return list(reader.pictures(range(len(truth)), backend=result.device))

        pictures, fps = _timed(decode)
    kept = [count for _, count in result.info.gops]
    return {
        "codec": "gaussian2d",
        "quality": settings.gaussians,
        "device": result.device,
        "gaussians": float(np.mean(kept)),
        "bytes": result.nbytes,
        "encode_seconds": result.seconds,
        "encode_cpu_seconds": sum(gop["cpu_seconds"] for gop in result.gops),
        "psnr_before_coding": float(np.mean([gop["psnr_before_coding"] for gop in result.gops])),
        "decode_fps": fps,
        **_scores(pictures, truth),
    }


@contextmanager
def _own_priority() -> Iterator[None]:
    """Keep this thread's scheduling: SVT-AV1 makes its caller a real-time thread where the user may
    do that (root), and whatever it starts later would starve the machine."""
    if not hasattr(os, "sched_getscheduler"):  # Windows, macOS
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _coded(name: str, quality: int, truth: list[np.ndarray], fps: float) -> dict:
    """One quality of one of FFmpeg's encoders. Raises CaptureError where it is not built in or
    refuses the frames."""
    import av

    library, options, _ = ENCODERS[name]
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    height, width = truth[0].shape[:2]
    if width % 2 or height % 2:
        raise CaptureError("4:2:0 video has even sizes only")
    clock = time.perf_counter()
    file = io.BytesIO()
    try:
        with _own_priority(), av.open(file, "w", format="matroska") as container:
            stream = container.add_stream(library, rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {**options, "crf": str(quality)}
            stream.codec_context.thread_count = cores()
            nbytes = 0
            for frame in [*truth, None]:
                picture = None
                if frame is not None:
                    picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                for packet in stream.encode(picture):
                    nbytes += packet.size
                    container.mux(packet)
    except (ValueError, OSError) as error:  # FFmpeg's errors are of these families
        raise CaptureError(f"{library} cannot encode it ({error})") from error
    seconds = time.perf_counter() - clock

    def decode() -> list[np.ndarray]:
        file.seek(0)
        with av.open(file) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = cores()
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]

    pictures, decoded_fps = _timed(decode)
    return {
        "codec": name,
        "encoder": library,
        "quality": quality,
        "bytes": nbytes,
        "encode_seconds": seconds,
        "decode_fps": decoded_fps,
        **_scores(pictures, truth),
    }


def _timed(decode: Callable[[], list[np.ndarray]]) -> tuple[list[np.ndarray], float]:
    best = np.inf
    for _ in range(_PASSES):
        clock = time.perf_counter()
        pictures = decode()
        best = min(best, time.perf_counter() - clock)
    return pictures, len(pictures) / best


def _scores(pictures: list[np.ndarray], truth: list[np.ndarray]) -> dict:
    if len(pictures) != len(truth):
        raise CaptureError(f"{len(pictures)} of {len(truth)} frames came back")
    pairs = [
        (picture.astype(np.float32) / 255, frame.astype(np.float32) / 255)
        for picture, frame in zip(pictures, truth, strict=True)
    ]
    return {
        "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
        "ssim": float(np.mean([ssim(*pair) for pair in pairs])),
    }


def table(result: dict) -> str:
    """The result as people read it."""
    lines = [
        f"{result['video']}: {result['frames']} frames of {result['width']}x{result['height']}",
        f"{'codec':12}{'quality':>9}{'kB/frame':>10}{'PSNR':>9}{'SSIM':>8}{'encode':>10}{'decode':>12}",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['codec']:12}{row['quality']:>9}{row['bytes'] / result['frames'] / 1e3:10.1f}"
            f"{row['psnr']:9.2f}{row['ssim']:8.3f}{row['encode_seconds']:9.1f}s"
            f"{row['decode_fps']:8.1f} fps"
        )
    lines += [
        f"skipped: {row['codec']} {row['quality']} ({row['reason']})" for row in result["skipped"]
    ]
    return "\n".join(lines)
