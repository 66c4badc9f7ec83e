# SPDX-License-Identifier: GPL-3.0-or-later
"""What a video of two-dimensional Gaussians costs, on the CPU and on a GPU.

    python benchmarks/gaussians.py [--movie MOVIE|FOLDER] [--seconds 10 30] [--json FILE]

One group of pictures is trained for so many seconds, one row each: "step_ms" is a step of that
training, "psnr" dB of the mean 8-bit frame before and after coding. Of what the last training left,
"draw_ms" is a picture and "fit_ms" a picture with its error and gradients, of Gaussians that are
where they are drawn (on a GPU in its memory, one queued after the other);
"picture_ms" a frame of the group as a picture in the host's memory, polynomials and copy included;
"decode_fps" frames of a file, in order, range coder included. Without --movie the frames are
moving texture of all sizes, which is harder than footage.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from measure import milliseconds, reason, write_result

from peel4d.engine.errors import PeelError
from peel4d.engine.render.window import Window
from peel4d.engine.train.run import training_device
from peel4d.engine.train.video_gop import GopSettings, gop_psnr, train_gop
from peel4d.engine.video2d.cuda_gaussians import rasterizer
from peel4d.engine.video2d.cuda_queue import DeviceGaussians
from peel4d.engine.video2d.gaussians import Gaussians2D, draw, fit
from peel4d.engine.video2d.gop import Gop
from peel4d.engine.video2d.gop_codec import Steps, decode_gop, encode_gop
from peel4d.engine.video2d.source import open_source
from peel4d.engine.video2d.video import VideoInfo, VideoReader, write_video

_GROUPS = 8  # of the file that is decoded, all alike
_QUEUED = 50  # pictures between two waits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--movie", type=Path, help="a movie or a folder of images")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), help="without --movie")
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--gaussians", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 30.0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as training does
    if options.movie is None:
        frames = texture(*options.size, options.frames)
    else:
        frames = list(islice(open_source(options.movie).frames(), options.frames))
    rows: list[dict] = []
    for method in ("cpu", "cuda"):
        try:
            rows += measure(method, frames, options)
        except PeelError as error:
            print(f"{method} skipped: {reason(error)}")
            rows.append({"method": method, "skipped": reason(error)})
    height, width = frames[0].shape[:2]
    movie = "texture" if options.movie is None else options.movie.name
    write_result(options.json, rows, movie=movie, width=width, height=height)
    return 0


def measure(method: str, frames: list[np.ndarray], options: argparse.Namespace) -> list[dict]:
    """Rows of trainings, and one of speeds."""
    device = training_device(method)
    steps = Steps().scaled(0.7)
    rows = []
    for seconds in options.seconds:
        settings = GopSettings(gaussians=options.gaussians, steps=1 << 30, seconds=seconds)
        gop, report = train_gop(frames, settings, steps, device=device)
        data = encode_gop(gop, steps)
        rows.append(
            {
                "method": method,
                "what": "training",
                "gaussians": len(gop),
                "steps": report.steps,
                "seconds": round(report.seconds, 2),
                "step_ms": round(1e3 * report.seconds / report.steps, 4),
                "psnr_before_coding": round(float(np.mean(gop_psnr(gop, frames))), 3),
                "psnr": round(float(np.mean(gop_psnr(decode_gop(data, "group"), frames))), 3),
                "bytes": len(data),
            }
        )
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    target = np.ascontiguousarray(frames[0])
    speeds = on_gpu(gop, target) if method == "cuda" else on_cpu(gop, target)
    row = {"method": method, "what": "speed", "gaussians": len(gop)}
    for name, run in speeds.items():
        run()
        taken = [milliseconds(run) for _ in range(options.runs)]
        pictures = _QUEUED if method == "cuda" and name != "picture_ms" else 1
        row[name] = round(statistics.median(taken) / pictures, 4)
    row["decode_fps"] = round(decode_fps(gop, data, method), 2)
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return [*rows, row]


def on_cpu(gop: Gop, target: np.ndarray) -> dict[str, Callable[[], object]]:
    window, seen = Window(0, 0, gop.width, gop.height), gop.at(0)
    return {
        "draw_ms": lambda: draw(seen, window),
        "fit_ms": lambda: fit(seen, window, target),
        "picture_ms": lambda: draw(gop.at(0), window),
    }


def on_gpu(gop: Gop, target: np.ndarray) -> dict[str, Callable[[], object]]:
    gpu, window = rasterizer(), Window(0, 0, gop.width, gop.height)
    inputs, gradients = on_device(gop.at(0)), on_device(gop.at(0))
    truth = torch.from_numpy(target).cuda()
    picture, error = torch.empty_like(truth), torch.empty((), device="cuda")
    out = gpu.picture(gop.width, gop.height)

    def repeated(queue: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(_QUEUED):
                queue()
            torch.cuda.synchronize()

        return run

    def compare() -> None:
        addresses = truth.data_ptr(), gop.width, pointers(gradients), error.data_ptr()
        gpu.fit_pointers(pointers(inputs), window, *addresses, None)

    return {
        "draw_ms": repeated(
            lambda: gpu.draw_pointers(pointers(inputs), window, None, picture=picture.data_ptr())
        ),
        "fit_ms": repeated(compare),
        "picture_ms": lambda: gpu.draw_frame(gop, 0, out=out),
    }


def on_device(gaussians: Gaussians2D) -> list[torch.Tensor]:
    arrays = gaussians.position, gaussians.cholesky, gaussians.color
    return [torch.from_numpy(array).cuda() for array in arrays]


def pointers(tensors: list[torch.Tensor]) -> DeviceGaussians:
    return DeviceGaussians(len(tensors[0]), *(tensor.data_ptr() for tensor in tensors))


def decode_fps(gop: Gop, data: bytes, backend: str) -> float:
    """Frames per second of a file of `_GROUPS` groups; the fastest of three passes."""
    info = VideoInfo(gop.width, gop.height, 25.0, ((gop.frames, len(gop)),) * _GROUPS)
    best = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.g2v"
        write_video(path, info, [data] * _GROUPS)
        for _ in range(3):
            begun = time.perf_counter()
            with VideoReader(path) as reader:
                count = sum(1 for _ in reader.pictures(range(info.frame_count), backend=backend))
            best = max(best, count / (time.perf_counter() - begun))
    return best


def texture(width: int, height: int, frames: int) -> list[np.ndarray]:
    """Waves of all lengths, which drift, behind a disk with an edge; (height, width, 3) uint8."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [
        (random.uniform(0, 2 * np.pi), 2 * np.pi / length, random.uniform(0, 2 * np.pi, 3), length)
        for length in np.geomspace(8, 400, 24)
    ]
    pictures = []
    for frame in range(frames):
        total = np.zeros((height, width, 3), np.float32)
        for angle, wave, phase, length in waves:
            along = (np.cos(angle) * x + np.sin(angle) * y + 0.8 * frame) * wave
            total += 0.012 * length**0.4 * np.sin(along[..., None] + phase)
        inside = np.hypot(x - width / 3 - 2 * frame, y - height / 2) < height / 4
        total[inside] *= -0.7
        pictures.append(np.clip((0.5 + total) * 255, 0, 255).astype(np.uint8))
    return pictures


if __name__ == "__main__":
    sys.exit(main())
