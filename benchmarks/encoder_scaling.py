# SPDX-License-Identifier: GPL-3.0-or-later
"""How much faster encoders become with a second core.

    python benchmarks/encoder_scaling.py OUT.json [--video FOLDER] [--reconstruction DIR ...]

Every row is `peel4d` at work, from its start to its end, wall clock; the machine should have
nothing else to do. "video": four groups of pictures (the images of FOLDER four times) with two
processes, beside one group with one process of one thread; linear scaling would be a ratio of 2.
"fitted", "residual" or "codebook": a finished reconstruction packed with its footage, with two
processes, beside one process of one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import write_result

from peel4d.engine.train.plan import Folder, load_plan

GROUPS = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="JSON file")
    parser.add_argument("--video", type=Path, help="a folder of images, one group")
    parser.add_argument("--steps", type=int, default=600, help="of a group")
    parser.add_argument("--reconstruction", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        if options.video is not None:
            rows.append(video(options, Path(place)))
        for folder in options.reconstruction:
            rows += packing(folder, options.runs, Path(place))
    write_result(options.out, rows)
    return 0


def video(options: argparse.Namespace, place: Path) -> dict:
    images = sorted(path for path in options.video.iterdir() if path.is_file())
    repeated = place / "repeated"
    repeated.mkdir()
    for number, image in enumerate(images * GROUPS):
        (repeated / f"{number:06d}{image.suffix}").symlink_to(image.resolve())
    common = "--gop", len(images), "--steps", options.steps, "-o", place / "out.g2v"

    def one() -> float:
        return seconds("video", "encode", options.video, *common, "--jobs", 1, threads=1)

    def all_groups() -> float:
        return seconds("video", "encode", repeated, *common, "--jobs", 2)

    return compared("video", one, all_groups, options.runs, groups=GROUPS, steps=options.steps)


def packing(folder: Path, runs: int, place: Path) -> list[dict]:
    plan = load_plan(Folder(folder))
    ways = {"fitted": ("--capture", plan.capture)}
    if plan.settings.model == "field":
        ways = {"codebook": ("--codec", "codebook")}
    else:
        ways["residual"] = "--codec", "residual"
    rows = []
    for name, way in ways.items():
        common = "pack", folder, "-o", place / "out.p4d", *way, "--jobs"

        def one(common=common) -> float:
            return seconds(*common, 1, threads=1)

        def two(common=common) -> float:
            return seconds(*common, 2)

        rows.append(compared(name, one, two, runs, frames=len(plan.frames)))
    return rows


def compared(what: str, one, two, runs: int, **more: object) -> dict:
    """Both in turns, so that what else the machine does hits both; "ratio": two to one."""
    times = [(one(), two()) for _ in range(runs)]
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    row = {"what": what, "one_seconds": round(first, 2), "two_seconds": round(second, 2)}
    row |= {"ratio": round(ratio, 3), "runs": runs, **more}
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def seconds(*arguments: object, threads: int | None = None) -> float:
    environment = dict(os.environ)
    if threads is not None:
        environment |= {"PEEL4D_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    command = [Path(sys.executable).with_name("peel4d"), *map(str, arguments)]
    begun = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
