"""`peel4d pack DIR|CLIP -o OUT.p4d`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..clip.pack import CODECS, PackSettings, pack
from .arguments import parse_memory, positive_float
from .console import progress_reporter

_DEFAULTS = PackSettings()


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "pack",
        help="make a clip smaller",
        description="Write the clip of a reconstruction, or any clip, so that it needs fewer bytes "
        "for the same pictures.",
    )
    parser.add_argument("source", type=Path, metavar="DIR|CLIP")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.p4d")
    parser.add_argument(
        "--codec",
        default=_DEFAULTS.codec,
        choices=CODECS,
        help="predictive (default): small; baked: as exact as 8-bit pixels are",
    )
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument(
        "--coarseness",
        type=positive_float,
        default=_DEFAULTS.coarseness,
        metavar="FACTOR",
        help="of all steps of the predictive codec: 0.5 finer, 2 coarser (default 1)",
    )
    quality.add_argument(
        "--target-size",
        type=parse_memory,
        metavar="3M",
        help="as good as a file of this size can be",
    )
    quality.add_argument(
        "--target-psnr",
        type=positive_float,
        metavar="DB",
        help="as small as pictures can be that differ so little from the source's",
    )
    parser.add_argument(
        "--prune",
        type=_not_negative,
        default=_DEFAULTS.prune,
        metavar="SHARE",
        help="leave out points of which the cameras see less than this share, because they lie "
        f"inside or are next to transparent (default {_DEFAULTS.prune:g}; 0 keeps all)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    settings = PackSettings(
        codec=options.codec,
        coarseness=options.coarseness,
        prune=options.prune,
        target_bytes=options.target_size,
        target_psnr=options.target_psnr,
    )
    with progress_reporter(json_lines=False) as progress:
        packed = pack(options.source, options.output, settings, progress=progress)
    frames = packed.info.frame_count
    result = {
        "clip": str(options.output),
        "codec": settings.codec,
        "frames": frames,
        "bytes": packed.nbytes,
        "bytes_per_frame": round(packed.nbytes / frames),
        "source_bytes": packed.source_nbytes,
        "pruned": packed.pruned,
        "coarseness": packed.coarseness,
    }
    if options.json:
        print(json.dumps(result, indent=1, allow_nan=False))
        return 0
    print(
        f"{options.output}: {frames} frames, {packed.nbytes / frames / 1000:.1f} kB per frame, "
        f"{packed.source_nbytes / packed.nbytes:.1f} x smaller than {options.source} "
        f"({packed.pruned:.0%} of the points were left out, coarseness {packed.coarseness:.2f})"
    )
    return 0


def _not_negative(text: str) -> float:
    return 0.0 if text.strip() in ("0", "0.0") else positive_float(text)
