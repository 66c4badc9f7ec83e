"""`peel4d reconstruct CAPTURE -o DIR`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError
from .arguments import (
    add_device,
    parse_memory,
    parse_names,
    parse_pixels,
    parse_seconds,
    parse_size,
    positive_int,
    seed,
)
from .console import emit, progress_reporter

if TYPE_CHECKING:
    from ..train.plan import Plan


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "reconstruct",
        help="train a clip from a capture",
        description="Train the points of a capture and write DIR/clip.p4d.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capture", type=Path, help="folder (or calibration file) of the capture")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    add_recipe(parser)
    parser.add_argument("--resume", action="store_true", help="go on with what is in DIR")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """What to train, and how: the arguments that `plan_of` takes beside capture and output."""
    parser.add_argument("--frames", metavar="A:B", help="frame numbers A <= n < B; default all")
    parser.add_argument("--views", type=parse_names, metavar="V,V", help="train on these only")
    parser.add_argument("--test-views", type=parse_names, metavar="V,V", help="hold these out")
    parser.add_argument("--preset", default="standard", help="draft, standard (default) or high")
    parser.add_argument("--model", default="explicit", help="explicit (default) or field")
    parser.add_argument("--points", default="auto", choices=("auto", "hull", "depth"))
    parser.add_argument(
        "--background",
        default="auto",
        choices=("auto", "none"),
        help="also reconstruct what does not move, where it can be seen (auto), or not (none)",
    )
    parser.add_argument(
        "--masks",
        default="auto",
        choices=("auto", "capture", "plate", "chroma"),
        help="which pixels show the subject: the capture's masks, else estimated ones (auto); "
        "estimated against each static camera's background (plate) or a screen (chroma)",
    )
    parser.add_argument(
        "--cameras",
        default="auto",
        choices=("auto", "given"),
        help="turn cameras by fractions of a pixel where the background shows that the calibration "
        "is off (auto), or take them as they are (given)",
    )
    parser.add_argument("--steps", type=positive_int, help="optimisation steps per frame")
    parser.add_argument(
        "--point-pixels",
        type=parse_pixels,
        metavar="PIXELS",
        help="distance of the subject's points, in pixels of the median camera (standard: 2.4, or "
        "1.8 from depth maps); larger: smaller clips, smaller: near things are sharper",
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="image size, if not stored")
    add_resources(parser)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """What one process that trains may use."""
    parser.add_argument("--max-memory", type=parse_memory, metavar="4G")
    add_device(parser)


def add_vram(parser: argparse.ArgumentParser) -> None:
    """What of the GPU the processes that train may use."""
    parser.add_argument(
        "--max-vram", type=parse_memory, metavar="8G", help="of the GPU; default: what is free"
    )


def add_resources(parser: argparse.ArgumentParser) -> None:
    """What training may use."""
    add_machine(parser)
    add_vram(parser)
    parser.add_argument(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="processes that train frames; default: as many as use the machine well",
    )
    parser.add_argument(
        "--time-budget",
        type=parse_seconds,
        metavar="T",
        help="be done after 90 (seconds), 5m or 1h, with fewer steps if need be",
    )


def plan_of(options: argparse.Namespace) -> Plan:
    """What the arguments ask for, checked against the capture."""
    from ..capture.detect import open_capture
    from ..train.plan import make_plan
    from ..train.settings import preset

    changes = {"model": options.model, "seed": options.seed}
    if options.steps is not None:
        changes["steps"] = options.steps
    if options.point_pixels is not None:
        names = ("hull_pixels", "field_pixels", "depth_pixels")
        changes |= dict.fromkeys(names, options.point_pixels)
    if options.cameras == "given":
        changes["rotation_rate"] = 0.0
    settings = preset(options.preset, **changes)
    if options.output.exists() and not options.output.is_dir():
        raise OutputError("is not a folder", where=options.output, hint="Choose another -o")
    return make_plan(
        open_capture(options.capture, size=options.size),
        size=options.size,
        frames=options.frames,
        views=options.views,
        test_views=options.test_views,
        points=options.points,
        background=options.background,
        masks=options.masks,
        preset=options.preset,
        settings=settings,
    )


def run(options: argparse.Namespace) -> int:
    from ..worker.run import Resources, needs, run_plan

    try:
        plan = plan_of(options)
        if options.json:
            logging.getLogger().addHandler(JsonWarnings(logging.WARNING))
            emit_started(plan)
        with progress_reporter(options.json) as progress:
            result = run_plan(
                plan,
                options.output,
                resume=options.resume,
                resources=Resources.of(options),
                progress=progress,
            )
    except ModuleNotFoundError as error:
        raise needs(error) from error
    if options.json:
        emit("done", **result)
        return 0
    memory = result["peak_memory_bytes"]
    print(
        f"{result['clip']}: {result['frames']} frames, {result['points_per_frame']} points and "
        f"{result['bytes_per_frame'] / 1e3:.0f} kB per frame, {result['seconds']:.0f} s"
        + (f", peak memory {memory / 2**30:.1f} GB" if memory else "")
    )
    for name, mean in result["scores"].items():
        stage, region = name.split("_")
        where = "inside the masks" if region == "mask" else "full image"
        print(f"  {stage:8}{where:18}{mean['psnr']:6.2f} dB  SSIM {mean['ssim']:.3f}")
    return 0


def emit_started(plan: Plan) -> None:
    emit("started", capture=plan.capture, frames=list(plan.frames), views=list(plan.views))


class JsonWarnings(logging.Handler):
    """Warnings of the log, as events of the worker protocol."""

    def emit(self, record: logging.LogRecord) -> None:
        emit("warning", message=record.getMessage())
