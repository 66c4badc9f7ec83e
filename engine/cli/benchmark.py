"""`peel4d benchmark quality CAPTURE`, `benchmark rd DIR` and `benchmark video VIDEO`."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

from .console import progress_reporter
from .reconstruct import add_recipe, plan_of

#: Columns of the table: heading, width, key and format of a score.
_COLUMNS = (
    ("PSNR", 7, "psnr", ".2f"),
    ("SSIM", 7, "ssim", ".3f"),
    ("LPIPS", 7, "lpips", ".3f"),
    ("FLIP", 7, "flip", ".3f"),
    ("gradients", 11, "gradient_energy", ".3f"),
    ("correlated", 12, "gradient_correlation", ".3f"),
)


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "benchmark",
        help="measure a capture's quality, or a clip's or video's rate and distortion",
        description="quality: train a capture, score its held-out views and compare with what is "
        "published; writes DIR/quality.json and the contact sheet DIR/quality.png. rd: pack a "
        "finished reconstruction at several sizes and score each; writes rd.json and rd.svg. "
        "video: encode a movie or a folder of images as Gaussians, HEVC and AV1; writes "
        "DIR/video.json.",
    )
    parser.add_argument("what", choices=("quality", "rd", "video"), help="what is measured")
    parser.add_argument(
        "capture",
        type=Path,
        help="folder (or calibration file) of the capture; rd: folder of a reconstruction; video: "
        "a movie or a folder of images",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="default: quality-<name of the capture>"
    )
    parser.add_argument("--region", default="full", choices=("full", "mask"))
    parser.add_argument(
        "--footage",
        type=Path,
        metavar="CAPTURE",
        help="rd: also pack with points that are fitted to the footage (`pack --capture`)",
    )
    add_recipe(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.what == "rd":
        return _rate(options)
    if options.what == "video":
        return _video(options)
    from ..worker.run import Resources, needs, run_plan

    if options.output is None:
        options.output = Path(f"quality-{options.capture.resolve().name}")
    try:
        from ..train import quality

        plan = plan_of(options)
        quality.check(plan, options.region)
        with progress_reporter(json_lines=False) as progress:
            trained = run_plan(
                plan,
                options.output,
                resume=False,
                resources=Resources.of(options),
                progress=progress,
            )
            result = quality.measure_quality(
                plan, options.output, trained, region=options.region, progress=progress
            )
    except ModuleNotFoundError as error:
        raise needs(error) from error
    if options.json:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        print(table(result))
        print(f"written: {options.output / 'quality.json'} and quality.png")
    return 0


def _rate(options: argparse.Namespace) -> int:
    from ..atomic import write_text
    from ..machine import machine, versions
    from ..worker.run import needs

    try:
        from ..train import rate_distortion
        from ..train.refit import Refit
    except ModuleNotFoundError as error:
        raise needs(error) from error
    output = options.output or options.capture
    fitting = nullcontext()
    if options.footage is not None:
        fitting = Refit(options.capture, options.footage, jobs=options.jobs, device=options.device)
    with progress_reporter(json_lines=False) as progress, fitting as fitter:
        result = rate_distortion.measure_rate(
            options.capture,
            region=options.region,
            fitter=fitter,
            jobs=options.jobs,
            progress=progress,
        )
    result |= {"machine": machine(), "versions": versions("numpy", "torch", "zstandard")}
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "rd.json", json.dumps(result, indent=1) + "\n")
    rate_distortion.draw(result, output / "rd.svg")
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"region {result['region']}, {result['scored']} images of held-out views")
    print(f"  {'codec':12}{'coarseness':>11}{'prune':>7}{'kB/frame':>10}{'PSNR':>10}{'decode':>10}")
    for row in result["rows"]:
        coarseness, prune = row["coarseness"] or "", "" if row["prune"] is None else row["prune"]
        decode = "" if row["decode_ms"] is None else f"{row['decode_ms']:.1f} ms"
        print(
            f"  {row['codec']:12}{coarseness:>11}{prune:>7}{row['bytes_per_frame'] / 1e3:10.1f}"
            f"{row['psnr']:7.3f} dB{decode:>10}"
        )
    for name, gain in result["bd_rate_percent"].items():
        shown = "no PSNR in common" if gain is None else f"{gain:+.1f} %"
        print(f"BD-rate of {name} against zstd: {shown}")
    print(f"written: {output / 'rd.json'} and rd.svg")
    return 0


def _video(options: argparse.Namespace) -> int:
    from ..atomic import write_text
    from ..video2d.source import open_source
    from ..worker.run import needs

    try:
        from ..train import video_benchmark
        from ..train.video_encode import EncodeSettings
        from ..train.video_gop import GopSettings
    except ModuleNotFoundError as error:
        raise needs(error) from error
    training = GopSettings() if options.steps is None else GopSettings(steps=options.steps)
    output = options.output or Path(f"video-{options.capture.resolve().stem}")
    with progress_reporter(json_lines=False) as progress:
        result = video_benchmark.measure_video(
            open_source(options.capture),
            EncodeSettings(training=training),
            jobs=options.jobs,
            device=options.device,
            progress=progress,
        )
    text = json.dumps(result, indent=1, allow_nan=False)
    write_text(output / "video.json", text + "\n")
    if options.json:
        print(text)
        return 0
    print(video_benchmark.table(result))
    print(f"written: {output / 'video.json'}")
    return 0


def table(result: dict) -> str:
    """The result of `measure_quality` as people read it."""
    scores = result["scores"]
    images = len(scores["views"])
    lines = [
        f"{result['capture']}: {len(result['frames'])} frames, {len(result['training_views'])} "
        f"training and {len(result['test_views'])} test cameras ({images} images), "
        f"preset {result['preset']}, {result['steps']} steps",
        f"region {scores['region']}, over {scores['background']}, "
        f"camera colour: {scores['camera_color']}",
        "",
        _row("", {key: title for title, _, key, _ in _COLUMNS}, "  training    memory  kB/frame"),
    ]
    memory = result["peak_memory_bytes"]
    costs = (
        f"{result['training_seconds']:8.0f} s"
        + (f"{memory / 2**30:7.2f} GB" if memory else f"{'-':>10}")
        + f"{result['bytes_per_frame'] / 1e3:10.0f}"
    )
    if result["initial"]:
        lines.append(_row("untrained points", result["initial"], ""))
    lines.append(_row("Peel4D", result["mean"], costs))
    for other in result["published"]:
        hours = "" if other["hours"] is None else f"{other['hours']:.0f} h"
        lines.append(_row(other["method"], other, f"{hours:>10}  {other['note']}"))
    return "\n".join(lines)


def _row(name: str, values: dict, rest: str) -> str:
    cells = ""
    for _, width, key, form in _COLUMNS:
        value = values.get(key)
        text = "-" if value is None else value if isinstance(value, str) else format(value, form)
        cells += f"{text:>{width}}"
    return f"  {name:20}{cells}{rest}".rstrip()
