# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures per second and waiting times of the viewport while it orbits.

usage: python benchmarks/viewport.py [--points 100000] [--rounds 5] [--seconds 4]
       [--devices CPU GL] [--blender PROGRAM] [--json PATH]

Starts the real Blender with a window and turns the view around a clip in Rendered mode, in turns
with a render engine that does nothing, which shows what Blender's own redraw takes: what else the
machine does then hits all alike. With $PEEL4D_BLENDER_CHROOT and $PEEL4D_EXTENSION set, as
tests/real_blender.sh does, in that chroot on a screen of 1280 x 800; else PROGRAM, in which Peel4D
must be installed and enabled.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import percentiles, write_result

TESTS = Path(__file__).resolve().parents[1] / "tests" / "gui"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5, help="turns of every device")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one turn")
    parser.add_argument("--devices", nargs="+", default=["CPU", "GL"])
    parser.add_argument("--blender", default="blender")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    arguments = [options.points, options.rounds, options.seconds, *options.devices]
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), [str(one) for one in arguments], options.blender)
    baseline = found["rows"].pop("nothing")
    rows = [row("nothing", baseline, baseline)]
    rows += [row(name, times, baseline) for name, times in found["rows"].items()]
    for one in rows:
        print(line(one))
    write_result(options.json, rows, **{name: found[name] for name in found if name != "rows"})


def measured(folder: Path, arguments: list[str], program: str) -> dict:
    """What orbit_times.py wrote. SystemExit with Blender's output where it failed."""
    if os.environ.get("PEEL4D_BLENDER_CHROOT"):
        spec = importlib.util.spec_from_file_location("gui_window", TESTS / "conftest.py")
        gui = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = gui
        spec.loader.exec_module(gui)
        window = gui.Window(folder.resolve())
        window.install()
        out = window.run("orbit_times", *arguments, timeout=900)
    else:
        out = folder / "orbit_times"
        script = TESTS / "scripts" / "orbit_times.py"
        command = [program, "-P", str(script), "--", str(out), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not (out / "times.json").is_file():
            raise SystemExit(f"viewport: {program} did not finish\n{done.stdout}\n{done.stderr}")
    return json.loads((out / "times.json").read_text())


def row(name: str, times: dict, baseline: dict) -> dict:
    """One device: of all turns, and against the baseline of the same turns."""
    gaps = [gap for turn in times["gaps_ms"] for gap in turn]
    own = [gap for turn in baseline["gaps_ms"] for gap in turn]
    beyond = [
        float(np.quantile(turn, 0.99) - np.quantile(other, 0.99))
        for turn, other in zip(times["gaps_ms"], baseline["gaps_ms"], strict=True)
    ]
    found = {
        "device": name,
        "redraws": percentiles(gaps),
        "redraws_per_second": round(1000 / statistics.fmean(gaps), 2),
        "stall_beyond_baseline_p99_ms": round(
            percentiles(gaps)["p99_ms"] - percentiles(own)["p99_ms"], 2
        ),
        "stall_beyond_baseline_p99_ms_median_turn": round(statistics.median(beyond), 2),
        "processor_ms_per_redraw": round(statistics.median(times["cpu_ms"]), 2),
    }
    if name != "nothing":
        rates = times["pictures_per_second"]
        found["pictures_per_second"] = {
            "median": round(statistics.median(rates), 2),
            "turns": [round(rate, 2) for rate in rates],
        }
        found["callbacks"] = percentiles(times["callbacks_ms"]) if times["callbacks_ms"] else None
        found["sizes"], found["points"] = times["sizes"], times["points"]
    return found


def line(one: dict) -> str:
    text = f"{one['device']:8s} redraw {one['redraws']['p50_ms']:6.1f} ms, "
    text += f"p99 {one['redraws']['p99_ms']:6.1f} ms "
    text += f"({one['stall_beyond_baseline_p99_ms']:+.1f} ms)"
    if "pictures_per_second" in one:
        text += f", {one['pictures_per_second']['median']:.1f} pictures/s"
        if one["callbacks"]:
            text += f", callbacks p99 {one['callbacks']['p99_ms']:.1f} ms"
    return text + f", {one['processor_ms_per_redraw']:.0f} ms of processor"


if __name__ == "__main__":
    main()
