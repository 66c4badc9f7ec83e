# SPDX-License-Identifier: GPL-3.0-or-later
"""Rate and distortion of packed clips: PSNR of held-out views over bytes per frame.

    python benchmarks/rd.py RECONSTRUCTION OUT.json [--frames 4] [--region full]

RECONSTRUCTION is the folder of a finished `peel4d reconstruct` with test views. Its clip is packed
with the predictive codec at several coarsenesses, with and without pruning. The baseline keeps
every frame apart as well: the very same lattices, their codes as byte planes of differences along
the Morton curve, zstd; so at one coarseness both have the same pictures. "baked" is the source.
Bytes are those of the frames and of the static points' share, PSNR is over every n-th frame against
the footage. Bjontegaard's BD-rate compares the curves (piecewise cubic, over the common range).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import write_result
from scipy.interpolate import PchipInterpolator

from peel4d.engine.clip import morton, planes
from peel4d.engine.clip.compression import Compressor
from peel4d.engine.clip.pack import PackSettings, pack
from peel4d.engine.clip.quantize import level_count
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.render.splats import PackedSplats, Quantized
from peel4d.engine.train.evaluate import evaluate
from peel4d.engine.train.plan import Folder, load_plan

COARSENESS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reconstruction", type=Path)
    parser.add_argument("out", type=Path, help="JSON file")
    parser.add_argument("--frames", type=int, default=4, help="that are scored (default: 4)")
    parser.add_argument("--region", default="full", choices=("full", "mask"))
    options = parser.parse_args()
    folder = Folder(options.reconstruction)
    plan = load_plan(folder)
    step = max(1, len(plan.frames) // options.frames)
    only = {(view, label) for label in plan.frames[::step] for view in plan.test_views}

    def quality(clip: Path) -> dict[str, float]:
        mean = evaluate(folder.root, region=options.region, clip=clip, only=only)["mean"]
        return {"psnr": mean["psnr"], "ssim": mean["ssim"]}

    source = quality(folder.clip)
    with ClipReader(folder.clip) as reader:
        rows = [row("baked", None, None, reader, source, reader.total_nbytes)]
    for prune in (0.0, PackSettings().prune):
        for coarseness in COARSENESS:
            with tempfile.TemporaryDirectory() as place:
                path = Path(place) / "packed.p4d"
                begun = time.perf_counter()
                pack(folder.clip, path, PackSettings(coarseness=coarseness, prune=prune))
                seconds = time.perf_counter() - begun
                scores = quality(path)
                with ClipReader(path) as reader:
                    own = row("predictive", coarseness, prune, reader, scores, reader.total_nbytes)
                    zstd = row("zstd", coarseness, prune, reader, scores, zstd_bytes(reader))
                    own["encode_seconds"] = round(seconds, 2)
                    own["decode_ms"] = round(decoding(path), 2)
            rows += [own, zstd]
    for it in rows:
        print(
            f"{it['codec']:11} coarseness {it['coarseness'] or 0:5.2f} prune {it['prune'] or 0:.2f}"
            f" {it['bytes_per_frame'] / 1e3:8.1f} kB/frame {it['psnr']:7.3f} dB"
            f" {it['psnr'] - source['psnr']:+7.3f}",
            flush=True,
        )

    def curve(codec: str, prune: float) -> list[tuple[float, float]]:
        chosen = [r for r in rows if r["codec"] == codec and r["prune"] == prune]
        return [(r["bytes_per_frame"], r["psnr"]) for r in chosen]

    baseline = curve("zstd", 0.0)
    gains = {
        "predictive": bd_rate(baseline, curve("predictive", 0.0)),
        "predictive, pruned": bd_rate(baseline, curve("predictive", PackSettings().prune)),
    }
    for name, gain in gains.items():
        print(f"BD-rate of {name} against zstd: {gain:+.1f} %")
    write_result(
        options.out,
        rows,
        bd_rate_percent=gains,
        reconstruction=plan.preset,
        capture=Path(plan.capture).name,
        frames=len(plan.frames),
        scored=len(only),
        region=options.region,
    )
    return 0


def row(codec, coarseness, prune, reader: ClipReader, scores: dict, nbytes: int) -> dict:
    return {
        "codec": codec,
        "coarseness": coarseness,
        "prune": prune,
        "bytes_per_frame": round(nbytes / reader.info.frame_count),
        "points_per_frame": round(float(np.mean(reader.info.points))),
        "static_points": reader.info.static_points,
        **{name: round(value, 4) for name, value in scores.items()},
    }


def decoding(path: Path) -> float:
    """Milliseconds that a frame takes from the file to codes, median."""
    times = []
    with ClipReader(path, cache_frames=1) as reader:
        for index in range(min(reader.info.frame_count, 20)):
            begun = time.perf_counter()
            reader.packed(index, static=False)
            times.append(time.perf_counter() - begun)
    return 1e3 * float(np.median(times))


def zstd_bytes(reader: ClipReader) -> int:
    """What the codes of a clip would take as byte planes, frame by frame."""
    total = reader.total_nbytes
    parts = [reader.packed(index, static=False)[0] for index in range(reader.info.frame_count)]
    total -= sum(reader.frame_nbytes(index) for index in range(reader.info.frame_count))
    if reader.info.static_points:
        static = reader.packed(0)[1]
        total -= sum(a.nbytes for a in reader.info.attributes if a.scope == "static")
        parts.append(static)
    return total + sum(map(plane_bytes, parts))


def plane_bytes(part: PackedSplats) -> int:
    compressor = Compressor()
    total = 200  # a header such as the baked codec has
    for attribute in (part.position, part.radius, part.density, part.sh):
        if not isinstance(attribute, Quantized):
            raise SystemExit("a grid of more than 16 bits has no baseline")
        codes = attribute.codes.T.astype(np.int64)
        if attribute is part.position:
            raw = planes.split_sorted(morton.interleave(codes.T.astype(np.uint64)))
            total += sum(len(compressor.compress(plane)) for plane in raw)
            continue
        for first in range(0, len(codes), 3):
            rows = codes[first : first + 3]
            nbytes = planes.word_bytes(level_count(float(rows.max()), 1.0))
            forms = [
                (d, c) for d in (False, True) for c in (False, True) if not c or len(rows) == 3
            ]
            total += min(
                sum(
                    len(compressor.compress(plane))
                    for plane in planes.split(rows, nbytes, delta=delta, color=color)
                )
                for delta, color in forms
            )
    return total


def bd_rate(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float:
    """Bytes of the second curve over those of the first at the same PSNR, percent, less 100.

    Source: Bjontegaard, VCEG-M33, with piecewise cubic interpolation of log rate over PSNR.
    """
    curves = []
    for points in (first, second):
        increasing: list[tuple[float, float]] = []
        for rate, psnr in sorted(points):
            if not increasing or psnr > increasing[-1][1] + 1e-6:
                increasing.append((rate, psnr))
        rates, psnrs = np.array(increasing).T
        curves.append((PchipInterpolator(psnrs, np.log(rates)), psnrs[0], psnrs[-1]))
    low, high = max(c[1] for c in curves), min(c[2] for c in curves)
    if low >= high:
        return float("nan")
    areas = [c[0].integrate(low, high) for c in curves]
    return 100 * (np.exp((areas[1] - areas[0]) / (high - low)) - 1)


if __name__ == "__main__":
    sys.exit(main())
