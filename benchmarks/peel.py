# SPDX-License-Identifier: GPL-3.0-or-later
"""How long one picture takes: the splat core against other ways to draw the same points.

    python benchmarks/peel.py [--scene body|room] [--resolution 720p|1080p|4k] [--json FILE]
    python benchmarks/peel.py --scaling [--scene body|room] [--json FILE]

Methods: "cpu" and "cuda" are the core; "gl-passes" is 4K4D's way, K hardware raster passes over GL
points; "torch-reference" is the peel in plain torch, on a crop; "gsplat" draws isotropic Gaussians
whose footprint ends where the points' does. All run in turns in one process. A method that cannot
run here has a row with "skipped", the reason, instead of times.

A row without further keys is rgb colour in float32, points in random order. "input", "sh_degree"
and "order" say what is different; "threads" counts the core's. "median_ms" is wall-clock time of a
whole call, "device_ms" the GPU's alone. "psnr_db" compares the picture with the core's.

--scaling measures the core alone: 2^14 to 2^20 points, radii shrinking so that as many layers lie
over every pixel, and one cloud at growing resolutions; one thread and two; slopes of the
logarithms.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import peel_scaling
import scenes
from measure import interleaved_ms, reason, summary, write_result
from peel_methods import CROP, MAIN, METHODS, SETTINGS, Stage, cpu_cases

from peel4d.engine.errors import PeelError
from peel4d.engine.render import backend

#: What a picture must agree with the core's to count as the same one, dB.
LEAST_PSNR = 40.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scene", choices=("body", "room"), help="default: both")
    parser.add_argument("--resolution", choices=tuple(scenes.RESOLUTIONS), help="default: all")
    parser.add_argument("--points", type=int, help="other than 262,144 (body), 1,000,000 (room)")
    parser.add_argument("--runs", type=int, default=20, help="of every method, default 20")
    parser.add_argument("--scaling", action="store_true", help="how the time grows, see above")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = [options.scene] if options.scene else ["body", "room"]
    if options.scaling:
        most_points = options.points or 1 << 20
        result = peel_scaling.measure(names, most_points, options.runs)
        peel_scaling.print_tables(result)
        write_result(options.json, **result)
        return 0

    rows: list[dict] = []
    for name in names:
        scene = scenes.scene(name, options.points)
        for resolution in [options.resolution] if options.resolution else scenes.RESOLUTIONS:
            camera = scene.camera(*scenes.RESOLUTIONS[resolution])
            stage = Stage(scene, resolution, camera)
            with stage.kept:
                fresh = measure(stage, options.runs)
            print_table(stage, fresh)
            rows += fresh
    write_result(options.json, rows, layers=SETTINGS.layers)
    wrong = [row for row in rows if row.get("psnr_db", LEAST_PSNR) < LEAST_PSNR]
    for row in wrong:
        print(f"another picture than the core's: {row}", file=sys.stderr)
    return 1 if wrong else 0


def measure(stage: Stage, runs: int) -> list[dict]:
    """The rows of one scene at one resolution."""
    cases = list(cpu_cases(stage))
    skipped: list[dict] = []
    for method, make in METHODS.items():
        try:
            cases += list(make(stage))
        except (PeelError, ImportError, RuntimeError, MemoryError) as error:
            skipped.append({"method": method, "skipped": reason(error)})
    times = interleaved_ms({str(i): case.draw for i, case in enumerate(cases)}, runs)
    place = {
        "scene": stage.scene.name,
        "resolution": stage.resolution,
        "points": len(stage.scene.splats),
        "pixels": stage.camera.width * stage.camera.height,
    }
    backend.render(stage.scene.splats, stage.camera, SETTINGS, backend="cpu", out=stage.out)
    rows = []
    for index, case in enumerate(cases):
        row = {**place, **case.keys, **summary(times[str(index)])}
        if case.measures is not None:
            row |= case.measures(runs)
        if case.picture is not None:
            case.draw()
            row["psnr_db"] = round(psnr(case.picture(), window_of(stage.out.rgba, case.window)), 2)
        rows.append(row)
    rows += [{**place, **row} for row in skipped]
    for row in rows:
        if "median_ms" in row and "crop" not in row:
            row |= against_passes(row, rows)
    return rows


def against_passes(row: dict, rows: list[dict]) -> dict[str, float]:
    """How many times faster a row is than K hardware passes over points in the same order.

    By the medians, and by the least times, which what else the machine does disturbs least.
    """
    for other in rows:
        if other["method"] == "gl-passes" and other.get("order") == row["order"]:
            median, least = row["median_ms"], row["min_ms"]
            if "device_ms" in row:
                median = least = row["device_ms"]
            return {
                "times_gl_passes": round(other["median_ms"] / median, 2),
                "times_gl_passes_min": round(other["min_ms"] / least, 2),
            }
    return {}


def print_table(stage: Stage, rows: list[dict]) -> None:
    """One line per row; "x" is how many times faster than gl-passes it is."""
    print(f"\n{stage.scene.name}, {len(stage.scene.splats):,} points, {stage.resolution}")
    print(f"{'method':40} {'median':>10} {'x':>7} {'least':>10} {'x':>7} {'runs':>5}   ms")
    for row in rows:
        name = name_of(row)
        if "skipped" in row:
            print(f"{name:40} skipped: {row['skipped']}")
            continue
        ratios = [
            f"{row[key]:7.1f}" if key in row else " " * 7
            for key in ("times_gl_passes", "times_gl_passes_min")
        ]
        print(
            f"{name:40} {row['median_ms']:10.2f} {ratios[0]} {row['min_ms']:10.2f} {ratios[1]} "
            f"{row['runs']:5}" + (f"   device {row['device_ms']:.3f}" if "device_ms" in row else "")
        )


def name_of(row: dict) -> str:
    words = [row["method"]]
    if "threads" in row:
        words.append(f"{row['threads']} thread" + "s" * (row["threads"] > 1))
    words += [f"{key} {row[key]}" for key in MAIN if row.get(key, MAIN[key]) != MAIN[key]]
    if "crop" in row:
        words.append(f"crop {CROP} x {CROP}")
    return ", ".join(words)


def window_of(picture: np.ndarray, window: tuple[int, int, int, int] | None) -> np.ndarray:
    if window is None:
        return picture
    x, y, width, height = window
    return picture[y : y + height, x : x + width]


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    """Of all four channels where there is anything to see, at most 200 dB."""
    seen = (picture[..., 3] > 0) | (truth[..., 3] > 0)
    error = np.mean((picture[seen].astype(np.float64) - truth[seen]) ** 2) if seen.any() else 0
    return float(-10 * np.log10(max(error, 1e-20)))


if __name__ == "__main__":
    sys.exit(main())
