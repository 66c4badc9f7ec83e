# SPDX-License-Identifier: GPL-3.0-or-later
"""What depth cameras are worth: PSNR over time from masks alone, exact depth and a sensor's depth.

    python benchmarks/rgbd.py CAPTURE OUT.json [--frames 2] [--sensor kinect]

CAPTURE has exact depth maps in metres and held-out views, as `examples/make_demo_capture.py` makes
it; the sensor is simulated on them (`examples/depth_sensor.py`). Every frame is trained from the
visual hull, from exact depth and from the sensor's. A row is one training: its "curve" has the
masked PSNR of the held-out views after so many steps, and the seconds until then, carving or fusion
included (wall clock, and processor time for shared machines); 0 steps are the untrained points.
Images, depth maps and clean plates are read before the clock starts, and it stands still while a
picture is scored. "to_hull" is what it takes to get to the hull's last PSNR in that frame: the
shortest training that ends there. Learning rates fall over a training, so a short one that is
complete looks better than a long one after as many steps; "shorter" has those that were tried. The
cameras of a made capture see the same colours, so none are learned.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from measure import write_result

from peel4d.engine.capture.capture import Capture
from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.render.splats import Splats
from peel4d.engine.train.evaluate import held_out_pictures
from peel4d.engine.train.images import TrainingImages
from peel4d.engine.train.levels import (
    explicit_points,
    points_now,
    starting_points,
    train_levels,
)
from peel4d.engine.train.metrics import psnr
from peel4d.engine.train.plan import Folder, make_plan
from peel4d.engine.train.plates import load_plates
from peel4d.engine.train.run import Run
from peel4d.engine.train.settings import PRESETS, TrainSettings, preset
from peel4d.engine.train.watch import Watch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from depth_sensor import SENSORS, DepthSensor, degrade

#: Shares of the run after which the held-out views are scored.
SCORED = (0.0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
#: Shares of the preset's steps that trainings from depth are tried with, until one gets there.
TRIED = (0.06, 0.07, 0.08, 0.09, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8)


class SensorReader(ImageReader):
    """Reads a capture as if its depth maps had been taken by a sensor."""

    def __init__(self, capture: Capture, sensor: DepthSensor, *, cache_bytes: int):
        super().__init__(capture, cache_bytes=cache_bytes)
        self._sensor = sensor
        self._measured: dict[tuple[int, int], np.ndarray] = {}

    def depth(self, frame: int, view: int) -> np.ndarray | None:
        if (frame, view) not in self._measured:
            exact = super().depth(frame, view)
            if exact is None:
                return None
            image, K = self.image(frame, view), self.capture.camera(frame, view).K
            random = np.random.default_rng((frame, view))
            self._measured[frame, view] = degrade(exact, image, K, self._sensor, random)
        return self._measured[frame, view]


@dataclass
class Clock:
    """Wall-clock and processor seconds, stopped while pictures are scored."""

    wall: float = 0.0
    cpu: float = 0.0
    _since: tuple[float, float] = field(default=(0.0, 0.0))

    def start(self) -> None:
        self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall += time.perf_counter() - self._since[0]
        self.cpu += time.process_time() - self._since[1]


class Stops(Watch):
    """Asks for a preview after certain steps."""

    def __init__(self, steps: set[int]):
        self.step = 0
        self._steps = steps

    def check(self) -> None:
        self.step += 1

    def preview_due(self) -> bool:
        return self.step in self._steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("capture", type=Path)
    parser.add_argument("out", type=Path, help="JSON file")
    parser.add_argument("--frames", type=int, default=2, help="spread over the clip (default: 2)")
    parser.add_argument("--sensor", choices=SENSORS, default="kinect")
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    parser.add_argument("--depth-weight", type=float, help="of the depth loss (default: preset's)")
    parser.add_argument("--pixels", type=float, help="spacing of fused points (default: preset's)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as training does
    # The first optimiser of a process loads parts of torch for a second or more.
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    given = {"depth_weight": options.depth_weight, "depth_pixels": options.pixels}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = preset(options.preset, **changes)
    capture = open_capture(options.capture)
    size = 1 << 30
    readers = {
        "hull": ImageReader(capture, cache_bytes=size),
        "exact": ImageReader(capture, cache_bytes=size),
        options.sensor: SensorReader(capture, SENSORS[options.sensor], cache_bytes=size),
    }
    views = list(range(len(capture.views)))
    with tempfile.TemporaryDirectory() as folder:
        plates = load_plates(capture, readers["hull"], Folder(Path(folder)), views)
    last = len(capture.frames) - 1
    frames = np.linspace(0, last, options.frames + 2)[1:-1].round().astype(int).tolist()
    rows = []
    for frame in sorted(set(frames)):
        found = [
            training(capture, reader, plates, frame, name, settings)
            for name, reader in readers.items()
        ]
        goal = found[0]["curve"][-1]["psnr"]
        for row in found:
            row["shorter"] = []
            if row["source"] != "hull":
                name = row["source"]
                row["shorter"] = shorter(
                    capture, readers[name], plates, frame, name, goal, settings
                )
            ends = [*row["shorter"], row["curve"][-1]]
            row["to_hull"] = next((it for it in ends if it["psnr"] >= goal), None)
            print_row(row)
        rows += found
    amounts = [summary(name, rows) for name in readers]
    for it in amounts:
        print(", ".join(f"{key} {value}" for key, value in it.items()))
    write_result(
        options.out,
        rows,
        summary=amounts,
        capture=options.capture.name,
        views=sum(view.train for view in capture.views),
        preset=options.preset,
        depth_weight=settings.depth_weight,
        pixels=options.pixels,
    )
    return 0


def training(
    capture: Capture,
    reader: ImageReader,
    plates: dict[int, np.ndarray],
    frame: int,
    name: str,
    settings: TrainSettings,
) -> dict:
    """One frame trained from the points of one source, scored on the way."""
    train_views = [i for i, view in enumerate(capture.views) if view.train]
    test_views = [i for i, view in enumerate(capture.views) if not view.train]
    source = "hull" if name == "hull" else "depth"
    stops = Stops({round(share * settings.steps) for share in SCORED})
    plan = make_plan(
        capture,
        size=None,
        frames=None,
        views=None,
        test_views=None,
        points=source,
        preset="",
        settings=settings,
        background="none",
    )
    settings = plan.settings
    learns = source == "depth" and settings.depth_weight > 0
    images = TrainingImages(capture, reader, plates, max_bytes=1 << 30, depth=learns)
    run = Run(
        plan,
        Folder(Path("nothing is stored")),
        capture,
        reader,
        train_views,
        test_views,
        plates,
        images,
        stops,
        torch.device("cpu"),
        color=CameraColor(len(capture.views)),
    )
    images.usable(frame, train_views)  # decodes them
    if source == "depth":
        for view in train_views:
            reader.depth(frame, view)
    clock, curve = Clock(), []

    def score(splats: Splats) -> None:
        clock.stop()
        with torch.no_grad():
            pictures = held_out_pictures(run, splats, frame, "mask")
            value = float(np.mean([psnr(*shown) for _, *shown in pictures]))
        times = {"seconds": round(clock.wall, 3), "cpu_seconds": round(clock.cpu, 3)}
        curve.append({"step": stops.step, **times, "psnr": round(value, 3)})
        clock.start()

    clock.start()
    label = capture.frames[frame]
    points, rgb = starting_points(run, label)
    inset = settings.inset_of(source)
    score(points_now(explicit_points(points, rgb, settings, inset=inset), 0))
    train_levels(run, label, points, rgb, settings=settings, resumable=False, on_preview=score)
    return {
        "source": name,
        "frame": capture.frames[frame],
        "points": len(points),
        "spacing": round(points.spacing, 6),
        "curve": curve,
    }


def shorter(
    capture: Capture,
    reader: ImageReader,
    plates: dict[int, np.ndarray],
    frame: int,
    name: str,
    goal: float,
    settings: TrainSettings,
) -> list[dict]:
    """The ends of complete trainings from depth, the shortest first, up to one that has `goal`."""
    ends: list[dict] = []
    for share in TRIED:
        steps = round(share * settings.steps)
        row = training(capture, reader, plates, frame, name, replace(settings, steps=steps))
        ends.append(row["curve"][-1])
        if ends[-1]["psnr"] >= goal:
            break
    return ends


def print_row(row: dict) -> None:
    print(f"{row['source']}, frame {row['frame']}, {row['points']} points")
    for it in row["curve"]:
        print_end(it)
    for it in row["shorter"]:
        print_end(it, "in all")


def print_end(it: dict, what: str = "") -> None:
    print(f"{it['step']:6} steps {it['seconds']:8.1f} s {it['psnr']:7.2f} dB {what}", flush=True)


def summary(name: str, rows: list[dict]) -> dict[str, object]:
    """Means over the frames: the last PSNR, the time of a run, and that to the hull's last PSNR."""
    own = [row for row in rows if row["source"] == name]
    last = [row["curve"][-1] for row in own]
    reached = [row["to_hull"] for row in own]

    def mean(entries: list[dict], key: str) -> float | None:
        return None if None in entries else round(float(np.mean([it[key] for it in entries])), 2)

    return {
        "source": name,
        "psnr": mean(last, "psnr"),
        "seconds": mean(last, "seconds"),
        "cpu_seconds": mean(last, "cpu_seconds"),
        "to_hull_steps": mean(reached, "step"),
        "to_hull_seconds": mean(reached, "seconds"),
        "to_hull_cpu_seconds": mean(reached, "cpu_seconds"),
    }


if __name__ == "__main__":
    sys.exit(main())
