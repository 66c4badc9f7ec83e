# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole path on a capture of our own: film, reconstruct, render in Blender, compare.

    python examples/demo.py build/demo          (this is `make demo`)

Leaves in the folder: capture/, reconstruction/ (with clip.p4d), hull/ (the visual hull alone, for
comparison: initial.p4d), blender/ (PNGs that Blender rendered from the test cameras), orbit.mp4,
comparison.png (ground truth, hull, Peel4D), scene.blend and metrics.json, whose scores are
recomputed from the PNGs. What exists already is not made again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from peel4d.engine.atomic import write_text
from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.render.files import save_png
from peel4d.engine.train.evaluate import score
from peel4d.engine.train.metrics import region_of, summarize
from peel4d.engine.train.plan import Folder, load_plan
from peel4d.engine.train.plates import composite, load_plates

EXAMPLES = Path(__file__).resolve().parent
ORBIT_PICTURES = 96


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo")
    capture, reconstruction = root / "capture", root / "reconstruction"
    started = time.monotonic()
    run("film the scene", EXAMPLES / "make_demo_capture.py", capture)
    test_views = json.loads((capture / "peel4d.json").read_text())["test_views"]
    # An even backdrop is no background worth looking for.
    alone = ("--background", "none", "--resume")
    peel4d("reconstruct", "reconstruct", capture, "-o", reconstruction, *alone)
    # The baseline is what carving alone gives: the visual hull with projected colours.
    peel4d(
        "visual hull, for comparison",
        *("reconstruct", capture, "-o", root / "hull", "--points", "hull"),
        *("--preset", "draft", "--steps", 1, *alone),
    )
    clips = {"hull": Folder(root / "hull").initial_clip, "peel4d": Folder(reconstruction).clip}
    for name, clip in clips.items():
        save = ("--save", root / "scene.blend") if name == "peel4d" else ()
        run(
            f"Blender renders {clip}",
            EXAMPLES / "render_views.py",
            *(clip, root / "blender" / name, "--views", ",".join(test_views), *save),
            quiet=True,
        )
    peel4d(
        "orbit",
        *("render", clips["peel4d"], "--orbit", "--count", ORBIT_PICTURES),
        *("--size", "768x768", "--background", "0.42,0.44,0.46", "-o", root / "orbit.mp4"),
    )
    metrics = compare(root, reconstruction)
    metrics["seconds"] = round(time.monotonic() - started, 1)
    write_text(root / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    report(root, metrics)
    return 0


def run(title: str, script: Path, *arguments: object, quiet: bool = False) -> None:
    step(title, [sys.executable, str(script), *map(str, arguments)], quiet)


def peel4d(title: str, *arguments: object) -> None:
    step(title, [sys.executable, "-m", "peel4d.engine.cli.main", *map(str, arguments)])


def step(title: str, command: list[str], quiet: bool = False) -> None:
    """Run one step; quiet: show what it prints only if it fails."""
    print(f"== {title}", flush=True)
    begun = time.monotonic()
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}
    result = subprocess.run(command, check=False, text=True, **output)
    if result.returncode != 0:
        print(result.stdout or "", file=sys.stderr)
        sys.exit(f"demo: '{title}' failed with exit code {result.returncode}")
    print(f"   {time.monotonic() - begun:.0f} s", flush=True)


def compare(root: Path, reconstruction: Path) -> dict:
    """Scores of Blender's PNGs inside the masks, and the picture of both beside the truth."""
    folder = Folder(reconstruction)
    plan = load_plan(folder)
    capture = open_capture(plan.capture)
    reader = ImageReader(capture)
    indices = [capture.view_index(name) for name in plan.test_views]
    plates = load_plates(capture, reader, folder, indices)
    scores: dict[str, list] = {"hull": [], "peel4d": []}
    rows = []
    for view in indices:
        name = capture.views[view].name
        for step_in_time, label in enumerate(plan.frames):
            frame = capture.frames.index(label)
            truth = reader.image(frame, view).astype(np.float32) / 255
            area = region_of(reader.mask(frame, view))
            pictures = {}
            for kind in scores:
                file = root / "blender" / kind / f"{name}_{step_in_time:06d}.png"
                pictures[kind] = over_plate(file, plates.get(view))
                if area is not None:
                    scores[kind].append(score(name, label, pictures[kind], truth, area))
            if step_in_time == len(plan.frames) // 2:
                rows.append(np.concatenate([truth, pictures["hull"], pictures["peel4d"]], axis=1))
    save_png(root / "comparison.png", np.concatenate(rows))
    film = json.loads((Path(plan.capture) / "demo.json").read_text())
    return summarize(
        scores["peel4d"],
        "mask",
        hull=summarize(scores["hull"], "mask"),
        background="clean plate" if plates else "black",
        bytes_per_frame=round(folder.clip.stat().st_size / len(plan.frames)),
        points=plan.points,
        capture=film,
    )


def over_plate(file: Path, plate: np.ndarray | None) -> np.ndarray:
    """A straight-alpha PNG over the camera's plate: (H, W, 3) in [0, 1]."""
    stored = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim != 3 or stored.shape[2] != 4:
        sys.exit(f"demo: {file} is not an RGBA picture")
    rgba = cv2.cvtColor(stored, cv2.COLOR_BGRA2RGBA).astype(np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    return composite(rgba, plate)


def report(root: Path, metrics: dict) -> None:
    ours, hull = metrics["mean"], metrics["hull"]["mean"]
    print(
        f"\nTest cameras, inside the masks, from Blender's PNGs:\n"
        f"  visual hull  {hull['psnr']:6.2f} dB  SSIM {hull['ssim']:.3f}\n"
        f"  Peel4D       {ours['psnr']:6.2f} dB  SSIM {ours['ssim']:.3f}"
        f"  ({ours['psnr'] - hull['psnr']:+.2f} dB)\n"
        f"  {metrics['bytes_per_frame'] / 1e3:.0f} kB per frame\n"
        f"Look at {root / 'comparison.png'} (truth, hull, Peel4D) and {root / 'orbit.mp4'};\n"
        f"open {root / 'scene.blend'} in Blender with the extension installed."
    )


if __name__ == "__main__":
    sys.exit(main())
