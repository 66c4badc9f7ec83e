"""Copy an EasyVolcap capture with its depth maps as a real sensor would have measured them.

    python examples/degrade_depth.py CAPTURE OUT [--sensor kinect|tof] [--seed N]

Images, masks and calibration are hard links where the file system allows it. `depth_sensor.py`
says what happens to depth.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from depth_sensor import SENSORS, DepthSensor, degrade

from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.errors import CaptureError, OutputError, PeelError


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def copy(source: Path, out: Path, sensor: DepthSensor, seed: int) -> int:
    """Write the copy and return how many depth maps it has. Raises PeelError."""
    capture = open_capture(source)
    files = {key: file for key, file in capture.depths.items() if file.path.suffix == ".png"}
    if not files:
        raise CaptureError("has no depth maps as PNG", where=source)
    if any(np.any(view.distortion) for view in capture.views):
        raise CaptureError("lenses with distortion are not simulated", where=source)
    if out.exists():
        raise OutputError("exists", where=out, hint="Name another folder or remove it")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part, copy_function=link)
    reader = ImageReader(capture)
    for (frame, view), file in sorted(files.items()):
        rng = np.random.default_rng((seed, view, frame))
        exact, image = reader.depth(frame, view), reader.image(frame, view)
        measured = degrade(exact, image, capture.camera(frame, view).K, sensor, rng)
        target = part / file.path.relative_to(source.resolve())
        target.unlink()  # it is a link to the original
        steps = np.rint(measured / file.scale).clip(0, 65535).astype(np.uint16)
        if not cv2.imwrite(str(target), steps):
            raise OutputError("cannot write", where=target, hint="Is the disk full?")
    part.rename(out)
    return len(files)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture", type=Path)
    parser.add_argument("out", type=Path, help="folder of the copy")
    parser.add_argument("--sensor", choices=SENSORS, default="kinect", help="(default: kinect)")
    parser.add_argument("--seed", type=int, default=0, help="another one, other noise")
    options = parser.parse_args()
    try:
        count = copy(options.capture.resolve(), options.out, SENSORS[options.sensor], options.seed)
    except PeelError as error:
        print(f"degrade_depth: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.out}: {count} depth maps, {options.sensor}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
