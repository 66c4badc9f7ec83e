"""`peel4d reconstruct CAPTURE -o DIR`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..errors import OutputError, ReconstructionError
from .arguments import parse_memory, parse_names, parse_size, positive_int, seed
from .console import emit, progress_reporter


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "reconstruct",
        help="train a clip from a capture",
        description="Train the points of a capture and write DIR/clip.p4d.",
    )
    parser.add_argument("capture", type=Path, help="folder (or calibration file) of the capture")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--frames", metavar="A:B", help="frame numbers A <= n < B; default all")
    parser.add_argument("--views", type=parse_names, metavar="V,V", help="train on these only")
    parser.add_argument("--test-views", type=parse_names, metavar="V,V", help="hold these out")
    parser.add_argument("--preset", default="standard", help="draft, standard (default) or high")
    parser.add_argument("--model", default="explicit", help="explicit (default) or field")
    parser.add_argument("--points", default="auto", choices=("auto", "hull", "depth"))
    parser.add_argument("--steps", type=positive_int, help="optimisation steps per frame")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="image size, if not stored")
    parser.add_argument("--max-memory", type=parse_memory, default=4 << 30, metavar="4G")
    parser.add_argument("--resume", action="store_true", help="go on with what is in DIR")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        from ..train.evaluate import evaluate
        from ..train.plan import Folder, make_plan
        from ..train.reconstruct import reconstruct
        from ..train.settings import preset
    except ModuleNotFoundError as error:
        raise ReconstructionError(
            f"training needs {error.name}", hint='Install it with: pip install "peel4d[train]"'
        ) from error
    from ..capture.detect import open_capture
    from ..train.records import write_json

    changes = {"model": options.model, "seed": options.seed}
    if options.steps is not None:
        changes["steps"] = options.steps
    settings = preset(options.preset, **changes)
    if options.output.exists() and not options.output.is_dir():
        raise OutputError("is not a folder", where=options.output, hint="Choose another -o")
    plan = make_plan(
        open_capture(options.capture, size=options.size),
        size=options.size,
        frames=options.frames,
        views=options.views,
        test_views=options.test_views,
        points=options.points,
        preset=options.preset,
        settings=settings,
    )
    if options.json:
        logging.getLogger().addHandler(_JsonWarnings(logging.WARNING))
        emit("started", capture=plan.capture, frames=list(plan.frames), views=list(plan.views))
    with progress_reporter(options.json) as progress:
        result = reconstruct(
            plan,
            options.output,
            resume=options.resume,
            max_memory=options.max_memory,
            progress=progress,
        )
        scores = {}
        if plan.test_views:
            for stage in ("initial", "final"):
                for region in ("mask", "full"):
                    try:
                        value = evaluate(options.output, region=region, stage=stage)
                    except ReconstructionError:
                        continue  # held-out views without images or masks cannot be scored
                    scores[f"{stage}_{region}"] = value
    result["peak_memory_bytes"] = _peak_memory()
    folder = Folder(options.output)
    write_json(folder.metrics, {**result, "scores": scores})
    means = {name: value["mean"] for name, value in scores.items()}
    if options.json:
        emit("done", output=str(folder.root), clip=str(folder.clip), **result, scores=means)
        return 0
    memory = result["peak_memory_bytes"]
    print(
        f"{folder.clip}: {result['frames']} frames, {result['points_per_frame']} points and "
        f"{result['bytes_per_frame'] / 1e3:.0f} kB per frame, {result['seconds']:.0f} s"
        + (f", peak memory {memory / 2**30:.1f} GB" if memory else "")
    )
    for name, mean in means.items():
        stage, region = name.split("_")
        where = "inside the masks" if region == "mask" else "full image"
        print(f"  {stage:8}{where:18}{mean['psnr']:6.2f} dB  SSIM {mean['ssim']:.3f}")
    return 0


def _peak_memory() -> int | None:
    """The most memory this process has held, bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    # In KiB on Linux, in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _JsonWarnings(logging.Handler):
    """Warnings of the log, as events of the worker protocol."""

    def emit(self, record: logging.LogRecord) -> None:
        emit("warning", message=record.getMessage())
