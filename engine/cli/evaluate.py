"""`peel4d evaluate DIR`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import ReconstructionError
from .arguments import parse_names
from .console import progress_reporter

#: What is said once, as the mean over all images.
FURTHER = (
    ("lpips", "LPIPS-VGG"),
    ("flip", "FLIP"),
    ("gradient_energy", "gradient energy"),
    ("gradient_correlation", "gradient correlation"),
)


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score a reconstruction on held-out views",
        description="Render DIR/clip.p4d from held-out cameras and compare with the footage.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--views", type=parse_names, metavar="V,V", help="default: the test views")
    parser.add_argument("--region", default="full", choices=("full", "mask"))
    parser.add_argument("--stage", default="final", choices=("final", "initial"))
    parser.add_argument("--clip", type=Path, help="a clip packed from DIR's, instead of that one")
    parser.add_argument("--pictures", type=Path, metavar="OUT", help="comparisons as PNG")
    parser.add_argument(
        "--curve",
        action="store_true",
        help="quality over training time instead: trains the middle frame anew, seven times or so",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        from ..train.evaluate import evaluate
    except ModuleNotFoundError as error:
        raise ReconstructionError(
            f"evaluation needs {error.name}", hint='Install it with: pip install "peel4d[train]"'
        ) from error
    if options.curve:
        return _curve(options)
    with progress_reporter(json_lines=False) as progress:
        result = evaluate(
            options.directory,
            views=options.views,
            region=options.region,
            stage=options.stage,
            clip=options.clip,
            flip=True,
            pictures=options.pictures,
            progress=progress,
        )
    if options.json:
        print(json.dumps(result, indent=1, allow_nan=False))
        return 0
    print(f"region {result['region']}, over {result['background']}, camera colour: mean")
    for name in sorted({score["view"] for score in result["views"]}):
        rows = [score for score in result["views"] if score["view"] == name]
        psnr, ssim = (sum(r[key] for r in rows) / len(rows) for key in ("psnr", "ssim"))
        print(f"  view {name:12} {len(rows):4} images  {psnr:6.2f} dB  SSIM {ssim:.3f}")
    mean, count = result["mean"], len(result["views"])
    print(f"  mean {'':12} {count:4} images  {mean['psnr']:6.2f} dB  SSIM {mean['ssim']:.3f}")
    further = [f"{label} {mean[name]:.3f}" for name, label in FURTHER if mean[name] is not None]
    if further:
        print("  " + "  ".join(further))
    for entry in result["skipped"]:
        print(f"  skipped view {entry['view']} frame {entry['frame']}: {entry['reason']}")
    return 0


def _curve(options: argparse.Namespace) -> int:
    from ..train.curve import quality_over_time

    with progress_reporter(json_lines=False) as progress:
        result = quality_over_time(options.directory, region=options.region, progress=progress)
    if options.json:
        print(json.dumps(result, indent=1, allow_nan=False))
        return 0
    print(f"frame {result['frame']}, region {result['region']}, on the {result['device'].upper()}")
    print(f"  {'steps':>6}{'seconds':>9}{'PSNR':>9}{'SSIM':>8}")
    for row in result["rows"]:
        print(f"  {row['steps']:6}{row['seconds']:9.1f}{row['psnr']:6.2f} dB{row['ssim']:8.3f}")
    return 0
